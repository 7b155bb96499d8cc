"""A training loss of your own, as a field of any config, with its test against a closed form.

  python launch.py --config=configs/digits.py --config.objective=examples.own_loss:pseudo_huber
  python -m pytest examples/own_loss.py

The arguments before the asterisk are the program's; those after it are fields of the section, such
as --config.objective.scale=0.1. A batch without large errors is fitted as by DDPM's loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context, Objective


def pseudo_huber(network: dj.Network, schedule: dj.Schedule, *, scale: float = 0.03) -> Objective:
  """Makes sqrt(|eps - eps_hat|^2 + c^2) - c with c = scale sqrt(D), per dimension.

  Song & Dhariwal 2023, Eq. 7, for the noise of a picture of D numbers. It grows as |.| where a
  prediction is far off. Metrics: loss, also per quarter of t.
  """

  def draw(key, batch, context):
    """All random numbers of the batch; a loss sees only rows of them."""
    return objectives.draw_inputs(key, batch, schedule, network, dj.uniform_times)

  def loss(params, context, inputs, keys):
    """(loss [], (metrics, records)) of any rows of the draws."""
    xt = dj.q_sample(inputs.x0, inputs.eps, inputs.level)
    output = network.output(params['network'], xt, inputs.level, inputs.cond, keys[0])
    size = inputs.x0[0].size
    square = jnp.square(inputs.eps - output).reshape(len(xt), size).sum(axis=1)
    c = scale * size**0.5
    losses = (jnp.sqrt(square + c**2) - c) / size
    return objectives.mean_loss(losses, inputs.level.t, inputs.time_weight)

  return Objective(draw, loss)


@pytest.mark.parametrize('scale', [1e-4, 100.0])
def test_the_loss_of_no_prediction_is_a_mean_of_chi(scale, size=8, batch=20_000):
  """|eps| is chi-distributed; for a large c the loss is |eps|^2 / 2 c."""
  nothing = dj.Network(lambda params, x, noise, cond, *, key=None: 0.0 * x, dj.time_input())
  objective = pseudo_huber(nothing, dj.CosineSchedule(), scale=scale)
  data = {'x': jnp.zeros((batch, size))}
  loss, _ = objective({'network': ()}, Context(), jax.random.key(0), data)
  c = scale * size**0.5
  law = stats.chi(size) if scale < 1 else stats.chi2(size, scale=0.5 / c)
  assert abs(loss * size - law.mean()) < 4.5 * law.std() / np.sqrt(batch) + c * (scale < 1)

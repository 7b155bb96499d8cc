"""Contrastive flow matching (Stoica et al. 2025, arXiv 2506.05350): what law does it draw from?

Its loss is |v - u|^2 - share |v - u'|^2 with u = eps - x_0 and u' of another example. The
minimum is (E[u | x_t] - share E[u']) / (1 - share): another velocity, and so another law. On
N(0, s^2) the ODE multiplies log std by 1 / (1 - share), so that its draws have the standard
deviation s^(1 / (1 - share)).

  python -m benchmarks.claims contrastive
"""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Objective
from examples.papers.fitting import draw, fit, normal_quantiles, small_mlp

STD, SHARE = 0.5, 0.2  # of the data; the authors' share is 0.05


def objective(network: dj.Network, schedule: dj.Schedule, *, share: float = 0.05) -> Objective:
  """Makes |v - u|^2 - share |v - u'|^2, with u' of the next row of the batch."""

  def draw(key, batch, context):
    inputs, keys = objectives.draw_inputs(key, batch, schedule, network, dj.uniform_times)
    u = inputs.eps - inputs.x0
    return (inputs, u, jnp.roll(u, 1, axis=0)), keys

  def loss(params, context, inputs, keys):
    inputs, u, other = inputs
    v = network.output(params['network'], inputs.xt, inputs.level, inputs.cond, keys[0])
    near, far = (jnp.square(v - x).reshape(len(v), -1).mean(axis=1) for x in (u, other))
    return objectives.mean_loss(near - share * far, inputs.level.t)

  return Objective(draw, loss)


def predicted_std(std: float, share: float) -> float:
  """Returns the standard deviation of its draws if the data are N(0, std^2)."""
  return std ** (1.0 / (1.0 - share))


@jax.jit
def deviation(key, share):
  """Trains on N(0, STD^2), and returns the standard deviation of draws."""
  network, init = small_mlp(32, 1)
  init_key, fit_key = jax.random.split(key)

  def batch(key):
    return {'x': STD * jax.random.normal(key, (128, 1))}

  loss = objective(network, dj.RectifiedFlowSchedule(), share=share)
  params = fit(fit_key, loss, init(init_key), batch, steps=1200)
  return draw(network, params, normal_quantiles(1000)).std()


def track(seed: int) -> dict[str, float]:
  """Measures the standard deviation of draws, of a placebo with another key too."""
  keys = jax.random.split(jax.random.key(seed), 2)
  cases = {'plain': (keys[0], 0.0), 'again': (keys[1], 0.0), 'contrastive': (keys[0], SHARE)}
  return {name: float(deviation(*case)) for name, case in cases.items()}

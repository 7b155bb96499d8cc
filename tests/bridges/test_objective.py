"""The objective of bridges against a transcription at its own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.bridges.objective import (
  bridge,
  schrodinger_coupling,
)
from diffusion_jax.testing import oracles
from diffusion_jax.testing.bridges import schrodinger_bridge
from diffusion_jax.training.objectives import Context, Network, make_condition
from tests.transcribed import transcribes


@transcribes('[SF]²M (Tong et al. 2023)', 'its loss, in finite targets')
@pytest.mark.parametrize('diffusion', [0.0, 0.7])
def test_the_loss_literally(diffusion, key):
  """Without diffusion the loss is flow matching, |v - (y - x_0)|^2 on lines."""
  double = bool(diffusion)

  def apply(params, x, noise, cond, *, key=None):
    output = params * x + noise[:, None] + cond['label'][:, None]
    return jnp.concatenate([output, 2.0 * output], axis=1) if double else output

  network = Network(apply, dj.time_input(3.0), condition=make_condition())
  # In the order of x_0 plus labels, which only the batch's own have.
  by_x0 = lambda key, x0, y, cond: jnp.argsort(x0[:, 0] + 10.0 * cond['label'])
  weighted = lambda *args: (dj.uniform_times(*args)[0], jnp.arange(8.0))
  objective = bridge(
    network,
    dj.RectifiedFlowSchedule(),
    diffusion=diffusion,
    coupling=by_x0 if double else None,
    times=weighted,
  )
  rng = np.random.default_rng(0)
  batch = {name: rng.normal(size=(8, 2)) for name in ('x', 'context')}
  batch['label'] = labels = rng.integers(3, size=8)

  @jax.jit
  def run(key):
    inputs, keys = objective.draw(key, batch, Context())
    return objective.loss({'network': 0.4}, Context(), inputs, keys)[0], inputs[0]

  with jax.enable_x64(True):
    loss, inputs = jax.device_get(run(key))
  z, t = inputs.eps, inputs.level.t[:, None]
  x0, y = batch['x'], batch['context']
  if double:
    y = y[np.argsort(x0[:, 0] + 10.0 * labels)]
  xt = (1 - t) * x0 + t * y + diffusion * np.sqrt(t * (1 - t)) * z
  output = 0.4 * xt + 3.0 * t + labels[:, None]
  error = (output - (y - x0)) ** 2
  if double:
    error += (2.0 * output - z) ** 2
  expected = np.mean(np.arange(8) * error.mean(axis=1))
  assert_allclose(loss, expected, rtol=1e-9)


@transcribes(
  '[SF]²M (Tong et al. 2023)',
  'entropic pairs, ε = 2ς²',
  '`bridges.objective.schrodinger_coupling`',
)
def test_pairs_are_those_of_the_schrodinger_bridge(key):
  """The covariance of Schrodinger pairs is known between Gaussians, here by their quantiles."""
  x0 = norm.ppf((np.arange(200) + 0.5) / 200).astype(np.float32)[:, None]
  couple = schrodinger_coupling(1.0)
  draw = jax.jit(jax.vmap(lambda key: couple(key, x0, 2.0 * x0, {})))
  pairs = 2.0 * x0[draw(jax.random.split(key, 100))][..., 0]
  data, source = (oracles.gaussian([0.0], [[v]]) for v in (1.0, 4.0))
  expected = schrodinger_bridge(data, source, 1.0).cross[0, 0]
  assert np.mean(pairs * x0.T) == pytest.approx(expected, abs=0.05)


def test_the_error_of_the_plan_is_a_metric(key):
  """0.2 of the weights are wrong after two iterations, and nothing at the default."""
  network = Network(lambda params, x, noise, cond, key=None: x, dj.time_input(1.0))
  x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
  batch = {'x': x, 'context': x[::-1] + 3.0}

  def error(*limit):
    objective = bridge(
      network, dj.RectifiedFlowSchedule(), diffusion=0.0, coupling=schrodinger_coupling(0.2, *limit)
    )
    _, (metrics, _) = jax.jit(objective)({'network': ()}, Context(), key, batch)
    return metrics['column_error'].total / metrics['column_error'].count

  assert error() < 0.0101 and error(2) > 0.2

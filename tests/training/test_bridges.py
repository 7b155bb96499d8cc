"""The objective of bridges against a transcription at its own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.testing.bridges import schrodinger_bridge
from diffusion_jax.training.bridges import bridge, schrodinger_coupling
from diffusion_jax.training.objectives import Context, Network


@pytest.mark.parametrize('diffusion', [0.0, 0.7])
def test_the_loss_literally(diffusion, key):
  """Without diffusion it is flow matching, |v - (y - x_0)|^2 on lines."""
  double = bool(diffusion)

  def apply(params, x, noise, cond, *, key=None):
    output = params * x + noise[:, None]
    return jnp.concatenate([output, 2.0 * output], axis=1) if double else output

  network = Network(apply, dj.time_input(3.0))
  backwards = lambda key, x0, y, cond: jnp.arange(len(y))[::-1]
  options = {'diffusion': diffusion, 'coupling': backwards if double else None}
  objective = bridge(network, dj.RectifiedFlowSchedule(), **options)
  rng = np.random.default_rng(0)
  batch = {name: rng.normal(size=(8, 2)) for name in ('x', 'context')}
  with jax.enable_x64(True):
    inputs, keys = objective.draw(key, batch, Context())
    loss, _ = objective.loss({'network': 0.4}, Context(), inputs, keys)
  z, t = np.asarray(inputs[0].eps), np.asarray(inputs[0].level.t)[:, None]
  x0, y = batch['x'], batch['context'][::-1] if double else batch['context']
  xt = (1 - t) * x0 + t * y + diffusion * np.sqrt(t * (1 - t)) * z
  output = 0.4 * xt + 3.0 * t
  expected = np.mean((output - (y - x0)) ** 2)
  if double:
    expected += np.mean((2.0 * output - z) ** 2)
  np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_pairs_are_those_of_the_schrodinger_bridge(key):
  """Their covariance is known between Gaussians, here by their quantiles."""
  x0 = norm.ppf((np.arange(200) + 0.5) / 200).astype(np.float32)[:, None]
  couple = schrodinger_coupling(1.0)
  draw = jax.jit(jax.vmap(lambda key: couple(key, x0, 2.0 * x0, {})))
  pairs = 2.0 * x0[draw(jax.random.split(key, 100))][..., 0]
  data, source = (oracles.gaussian([0.0], [[v]]) for v in (1.0, 4.0))
  expected = schrodinger_bridge(data, source, 1.0).cross[0, 0]
  assert np.mean(pairs * x0.T) == pytest.approx(expected, abs=0.05)

"""The objective of bridges against a transcription at its own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.training.bridges import bridge
from diffusion_jax.training.objectives import Context, Network


@pytest.mark.parametrize('diffusion', [0.0, 0.7])
def test_the_loss_literally(diffusion, key):
  """Without diffusion it is flow matching, |v - (y - x_0)|^2 on lines."""
  double = bool(diffusion)

  def apply(params, x, noise, cond, *, key=None):
    output = params * x + noise[:, None]
    return jnp.concatenate([output, 2.0 * output], axis=1) if double else output

  network = Network(apply, dj.time_input(3.0))
  objective = bridge(network, dj.RectifiedFlowSchedule(), diffusion=diffusion)
  rng = np.random.default_rng(0)
  batch = {name: rng.normal(size=(8, 2)) for name in ('x', 'context')}
  with jax.enable_x64(True):
    inputs, keys = objective.draw(key, batch, Context())
    loss, _ = objective.loss({'network': 0.4}, Context(), inputs, keys)
  z, t = np.asarray(inputs[0].eps), np.asarray(inputs[0].level.t)[:, None]
  x0, y = batch['x'], batch['context']
  xt = (1 - t) * x0 + t * y + diffusion * np.sqrt(t * (1 - t)) * z
  output = 0.4 * xt + 3.0 * t
  expected = np.mean((output - (y - x0)) ** 2)
  if double:
    expected += np.mean((2.0 * output - z) ** 2)
  np.testing.assert_allclose(loss, expected, rtol=1e-9)

"""Discretisations of the reverse SDE against steps written out."""

import jax
import numpy as np
import pytest

import diffusion_jax as dj

FLOW = dj.RectifiedFlowSchedule()


@pytest.mark.parametrize(
  'diffusion, w', [('constant', 1.0), ('sigma', 0.7), ('sde', 2 * 0.7 / (1 - 0.7))]
)
def test_the_step_of_sit_literally(diffusion, w, key):
  """In SiT's time s = 1 - t the drift is u + w score / 2."""
  x, x0 = np.array([[0.3, -1.2]]), np.array([[0.5, 0.1]])
  step = dj.velocity_sde(FLOW, diffusion, 0.5).step
  denoise = lambda x, level: dj.Prediction(np.float32(x0))
  levels = {'level_s': FLOW(0.6), 'level_t': FLOW(0.7)}
  found = jax.jit(lambda x: step(key, x, (), denoise, **levels)[0])(np.float32(x))
  z = np.float64(jax.random.normal(key, x.shape))
  noise = (x - 0.3 * x0) / 0.7
  u, score = x0 - noise, -noise / 0.7
  mean = x + 0.1 * (u + 0.25 * w * score)
  expected = mean + np.sqrt(0.5 * w * 0.1) * z
  np.testing.assert_allclose(found, expected, rtol=5e-6)

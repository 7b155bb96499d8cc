"""Euler-Maruyama on steps of a schedule, against beta_i written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj

BETAS = np.array([0.01, 0.4, 0.05, 0.3, 0.02])  # neighbours far apart
SCHEDULE = dj.DiscreteSchedule.from_betas(BETAS)


@pytest.mark.parametrize('i', [2, 3, 4, 5])
def test_euler_maruyama_undoes_beta_i(i, key):
  """x_{i-1} = x (1 + b / 2) + b score + sqrt(b) z, b = -log(1 - beta_i)."""
  x, x0 = jnp.array([[0.3, -1.2]]), jnp.array([[0.5, 0.1]])
  levels = SCHEDULE.at_step(np.array([i, i - 1]))
  found, _ = dj.euler_maruyama(SCHEDULE).step(
    key,
    x,
    (),
    lambda x, level: dj.Prediction(x0),
    level_s=levels.take(1),
    level_t=levels.take(0),
  )
  alpha_bar = np.cumprod(1 - BETAS)[i - 1]
  score = (np.sqrt(alpha_bar) * np.float64(x0) - x) / (1 - alpha_bar)
  b = -np.log(1 - BETAS[i - 1])
  z = np.float64(jax.random.normal(key, x.shape))
  expected = x * (1 + b / 2) + b * score + np.sqrt(b) * z
  np.testing.assert_allclose(found, expected, rtol=1e-5)

"""Twists against normal densities in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.jitted import level_at
from tests.posteriors.test_reconstruction import (
  MATRIX,
  SCHEDULE,
  Y,
  measured,
)
from tests.rows import normal

STD = 0.5


@pytest.mark.parametrize('make', [dj.pseudoinverse_twist, dj.spread_twist])
def test_a_twist_is_a_normal_density_without_its_constant(make):
  """-(y - A x)^T V^-1 (y - A x) / 2 and its gradient, in float64."""
  x0 = normal(3, 4)
  levels = level_at(SCHEDULE, np.array([0.02, 0.3, 0.8], np.float32))

  @jax.jit
  def run(x0):
    twist = make(measured(STD))
    found, vjp = jax.vjp(lambda x0: twist(x0, levels), x0)
    return levels.alpha, levels.sigma, x0, found, *vjp(jnp.ones(3))

  alpha, sigma, x0, found, gradient = map(np.asarray, run(x0))
  for i in range(3):
    a, s = float(alpha[i]), float(sigma[i])
    spread = MATRIX @ MATRIX.T if make is dj.pseudoinverse_twist else np.eye(2)
    v = s**2 / (a**2 + s**2) * spread + STD**2 * np.eye(2)
    residual = Y - MATRIX @ x0[i].astype(np.float64)
    solved = np.linalg.solve(v, residual)
    assert_allclose(found[i], -0.5 * residual @ solved, rtol=1e-4)
    assert_allclose(gradient[i], MATRIX.T @ solved, rtol=2e-3)

"""Conjugate gradients where rounding or the matrix is bad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.posteriors.conjugate_gradients import least_squares
from tests.jitted import level_at
from tests.posteriors.test_reconstruction import SCHEDULE
from tests.rows import normal


def test_a_direction_of_negative_curvature_is_not_taken():
  """The denoiser's Jacobian on the known pixel is below 0."""
  level = level_at(SCHEDULE, 0.5)
  fall = lambda x, level: dj.Prediction(-0.5 * x)
  known, mask = jnp.ones((2, 3)), jnp.array([[True, False, False]])
  x = jnp.full((2, 3), 0.3)
  guided = dj.reconstruction_guided(fall, known, mask, num_iterations=3)
  found = jax.jit(guided)(x, level).x0
  assert_allclose(found, -0.15, rtol=1e-6)


def test_rounding_does_not_throw_least_squares_away():
  """After 300 iterations of float32 the gradient is as small as after 30."""
  scales = np.geomspace(1.0, 1e-4, 64, dtype=np.float32)[None]
  y = normal(8, 64)
  forward = lambda x: x * scales
  variance, precision = jnp.float32(1e-4), jnp.float32(1e-6)

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(count):
    v = least_squares(forward, forward, y, variance, precision, count)
    downhill = scales * (y - scales * v) / variance - precision * v
    return jnp.linalg.norm(downhill, axis=1)

  few, many = gradient(30), gradient(300)
  assert np.all(np.isfinite(many)) and np.all(many <= 1.01 * few)

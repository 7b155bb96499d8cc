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


def test_numbers_of_different_noise_are_weighed_by_it(rng):
  """Against float64 normal equations; one deviation is 1 / 500 of the others."""
  matrix = rng.standard_normal((6, 4)).astype(np.float32)
  y, std = normal(3, 6), np.float32([1.0, 1.0, 0.002, 1.0, 0.5, 1.0])
  forward, transpose = (lambda x, m=m: jnp.einsum('ij,bj->bi', m, x) for m in (matrix, matrix.T))
  variance = np.broadcast_to(std**2, y.shape)
  found = jax.jit(lambda y: least_squares(forward, transpose, y, variance, 0.5, 40))(y)
  weighed = np.float64(matrix.T) / std**2
  exact = np.linalg.solve(weighed @ matrix + 0.5 * np.eye(4), weighed @ y.T).T
  assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


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

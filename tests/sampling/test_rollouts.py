"""What is known is held clean, and windows roll out an AR(1) by its exact denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from tests.rows import slow
from tests.sampling.test_elements import COSINE, COVARIANCE, T, denoise
from tests.transcribed import transcribes

LEVELS = dj.level_grid(COSINE, 60)
RHO = 0.8


SOLVER = dj.dpm_solver_pp(2)


def draw(key, known):
  """Draws the unknown numbers of a window."""
  noise_key, key = jax.random.split(key)
  x = dj.prior_sample(noise_key, known.shape, LEVELS.take(0))
  return dj.sample(key, denoise, SOLVER, *dj.hold_known(LEVELS, x, known))


def test_each_example_has_its_own_known_elements():
  """Each row has the conditional law of N(0, C) by its own pattern, in one program."""
  n, patterns = 4000, np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]], bool)
  known = np.where(patterns, np.float32([1.0, 0, 0.5, -1.0, 0, 2.0]), np.nan)
  rows = np.repeat(known, n, axis=0)
  x = np.asarray(jax.jit(draw)(jax.random.key(0), rows), np.float64).reshape(2, n, T)
  cov = np.asarray(COVARIANCE, np.float64)
  for pattern, row, samples in zip(patterns, known, x, strict=True):
    assert_array_equal(samples[:, pattern], np.broadcast_to(row[pattern], (n, pattern.sum())))
    gain = cov[np.ix_(~pattern, pattern)] @ np.linalg.inv(cov[np.ix_(pattern, pattern)])
    left = cov[np.ix_(~pattern, ~pattern)] - gain @ cov[np.ix_(pattern, ~pattern)]
    error = samples[:, ~pattern].mean(axis=0) - gain @ row[pattern]
    assert (np.abs(error) < 4.5 * np.sqrt(np.diag(left) / n) + 0.01).all()
    assert_allclose(np.cov(samples[:, ~pattern].T), left, atol=0.05)


def test_a_grid_of_any_shape_is_held():
  known = np.array([[1.0, np.nan, np.nan], [np.nan, 2.0, np.nan]], np.float32)[..., None]
  x = jnp.ones((2, 3, 1))
  for levels in (LEVELS, dj.staggered(LEVELS, [0, 2, 4])):
    grid, held = dj.hold_known(levels, x, known)
    assert grid.alpha.shape == (len(levels.t), 2, 3)
    given = ~np.isnan(known[..., 0])
    assert (np.asarray(grid.sigma)[:, given] == 0.0).all()
    assert (np.asarray(grid.alpha)[:, given] == 1.0).all()
    each = np.broadcast_to(np.reshape(levels.sigma, (len(levels.t), 1, -1)), grid.sigma.shape)
    assert_array_equal(np.asarray(grid.sigma)[:, ~given], each[:, ~given])
    assert_array_equal(held[..., 0], [[1.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
  with pytest.raises(ValueError, match=r'known has the shape \[2, 3, 1\], and x \[2, 3\]'):
    dj.hold_known(LEVELS, jnp.ones((2, 3)), known)
  four = dj.NoiseLevel(*(np.broadcast_to(a[:, None], (61, 4)) for a in LEVELS))
  with pytest.raises(ValueError, match='does not fit an array of shape'):
    dj.hold_known(four, x, known)
  square = dj.NoiseLevel(*(a[:, :2] for a in four))
  with pytest.raises(ValueError, match='may be of examples or of elements'):
    dj.hold_known(square, x[:, :2], known[:, :2])


@pytest.mark.parametrize('time', [[0.6], [0.3, 0.8], [[0.5], [0.9]]])
def test_a_denoiser_is_given_what_is_known(time, rng):
  """E[x_0 | x_t of the others, known] of N(0, C) in float64, whatever x is at known numbers."""
  known = np.float32([[0.4, np.nan, np.nan, -1.0, np.nan, np.nan], [np.nan] * 5 + [2.0]])
  x = rng.standard_normal((2, T), np.float32)
  level = COSINE(jnp.asarray(time) if len(time) > 1 else jnp.float32(time[0]))
  found = np.asarray(jax.jit(dj.given_known(denoise, known))(x, level).x0)
  other = np.where(np.isnan(known), x, 9.0).astype(np.float32)
  assert_array_equal(jax.jit(dj.given_known(denoise, known))(other, level).x0, found)
  cov = np.asarray(COVARIANCE, np.float64)
  alphas, sigmas = (np.broadcast_to(np.reshape(a, -1), 2) for a in level[1:])
  for row, x_row, alpha, sigma, each in zip(known, x, alphas, sigmas, found, strict=True):
    given = ~np.isnan(row)
    a, s = np.where(given, 1.0, alpha), np.where(given, 0.0, sigma)
    y = np.where(given, row, x_row)
    gain = cov * a[None] @ np.linalg.inv(a[:, None] * cov * a[None] + np.diag(s**2))
    assert_array_equal(each[given], row[given])
    assert_allclose(each, gain @ y, atol=2e-4)


@transcribes(
  'Diffusion Forcing (Chen et al. 2024)',
  '3.3: a rollout beyond the trained length',
  '`roll_out`',
)
@pytest.mark.parametrize('stride', [slow(1), 4])
def test_a_window_continues_an_ar1_beyond_its_length(stride):
  """x_{k+h} given x_k = a has the mean rho^h a and the variance 1 - rho^{2 h}."""
  n, further, a = 3000, 16, 1.5
  known = np.full((n, 3 + further), np.nan, np.float32)
  known[:, :3] = 0.3, -0.2, a
  key = jax.random.key(1)
  run = jax.jit(functools.partial(dj.roll_out, draw=draw, window=T, stride=stride))
  x = np.asarray(run(key, known=known), np.float64)
  assert_array_equal(x[:, :3], np.broadcast_to(np.float32([0.3, -0.2, a]), (n, 3)))
  steps = np.arange(1, further + 1)
  variance = 1.0 - RHO ** (2 * steps)
  error = x[:, 3:].mean(axis=0) - a * RHO**steps
  assert (np.abs(error) < 4.5 * np.sqrt(variance / n) + 0.02).all()
  assert_allclose(x[:, 3:].var(axis=0), variance, rtol=0.12)
  last = np.atleast_2d(np.corrcoef(x[:, -6:].T))[0]
  assert_allclose(last, RHO ** np.arange(6), atol=0.08)


def test_windows_cover_a_length_that_no_stride_divides():
  """Each window is drawn once, the last at the end, and what is known is never drawn."""
  starts = []

  def spy(key, known):
    jax.debug.callback(lambda known: starts.append(np.isnan(np.asarray(known)[0]).tolist()), known)
    return jnp.where(jnp.isnan(known), 7.0, known)

  known = np.float32([[1.0, 2.0, *[np.nan] * 7]])
  x = dj.roll_out(jax.random.key(0), spy, known, window=4, stride=3)
  jax.effects_barrier()
  assert_array_equal(x, [[1.0, 2.0, *[7.0] * 7]])
  assert starts == [[False] * 2 + [True] * 2, [False] + [True] * 3, [False] * 2 + [True] * 2]
  keys = jax.random.split(jax.random.key(0), 1)
  assert_array_equal(dj.roll_out(keys, spy, known, window=4, stride=3), x)


@pytest.mark.parametrize('window, stride', [(10, 1), (4, 5)])
def test_a_window_that_leaves_gaps_is_refused(window, stride):
  with pytest.raises(ValueError, match='does not pass over 9 elements'):
    dj.roll_out(jax.random.key(0), draw, np.full((1, 9), np.nan, np.float32), window, stride)

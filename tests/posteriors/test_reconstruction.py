"""Reconstruction guidance against regression in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at
from tests.rows import normal
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 4))
COV = ROOT @ ROOT.T + 0.3 * np.eye(4)
MEAN = np.array([0.5, -0.2, 0.1, 1.0])
DATA = oracles.gaussian(MEAN, COV)
POOL = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])


# Neither square nor symmetric.
MATRIX = np.array([[1.0, 0.5, 0.0, -0.5], [0.0, 1.0, 2.0, 0.3]])
Y = np.array([0.7, -0.4])
WHITE = oracles.gaussian(np.zeros(4), np.eye(4))
LEVELS = level_at(SCHEDULE, np.float32([0.02, 0.2, 0.5, 0.9]))


@jax.jit
def observe(x):
  return x @ jnp.asarray(MATRIX.T, jnp.float32)


def measured(std):
  return dj.Measurement(np.float32(Y[None]), observe, std)


# A mixture and one number of it, whose posterior has two modes.
MIXTURE = oracles.mixture([0.3, 0.7], [[-1, 0.5], [0.6, -0.2]], [0.1 * np.eye(2), 0.2 * np.eye(2)])
OF_MIXTURE = np.array([[0.8, -0.6]]), np.array([0.2]), 0.2
ONE_NUMBER = dj.Measurement(
  np.float32([[0.2]]), jax.jit(lambda x: x @ jnp.asarray(OF_MIXTURE[0].T, jnp.float32)), 0.2
)


def posterior_mean(a, y, x, level):
  """Computes E[x_0 | x_t, a x_0 = y] in float64 from both observations."""
  alpha, sigma = float(level.alpha), float(level.sigma)
  both = np.concatenate([alpha * np.eye(4), a])
  noise = np.diag([sigma**2] * 4 + [0.0] * len(a))
  gain = COV @ both.T @ np.linalg.inv(both @ COV @ both.T + noise)
  known = np.concatenate([np.asarray(x, np.float64), y], axis=1)
  return MEAN[None] + (known - (both @ MEAN)[None]) @ gain.T


@transcribes(
  'Reconstruction guidance (Ho et al. 2022; Chung et al. 2023; Song et al. 2023; Rozet et '
  'al. 2024)',
  'E[x_0 given x_t, y] of a linear y',
  '`reconstruction_guided`, `observation_guided`',
)
@pytest.mark.parametrize('num_known', [1, 2])
def test_it_is_bayes_rule_for_known_coordinates(num_known):
  """The result is exact with one iteration per known number."""
  x, known = normal(2, 3, 4)
  mask, a = np.arange(4)[None] < num_known, np.eye(4)[:num_known]
  y = np.float64(known[:, :num_known])
  guided = jax.jit(dj.reconstruction_guided(DATA.denoise, known, mask, num_iterations=num_known))
  for t in (0.05, 0.3, 1.0):
    level = level_at(SCHEDULE, t)
    found = np.asarray(guided(x, level).x0)
    assert_allclose(found, posterior_mean(a, y, x, level), rtol=1e-3, atol=2e-3, err_msg=f't={t}')
    assert_allclose(found[:, :num_known], y, atol=2e-3)


def test_scale_and_the_first_iteration_go_along_the_gradient():
  """The first iteration goes in the direction of Ho et al.'s reconstruction guidance."""
  level = level_at(SCHEDULE, 0.5)
  x, known = normal(2, 3, 4)
  mask = np.array([[True, True, False, False]])

  def misfit(x):
    x0 = DATA.denoise(x, level).x0
    return jnp.sum(jnp.where(mask, known - x0, 0.0) ** 2)

  @jax.jit
  def changes(scale):
    guided = dj.reconstruction_guided(DATA.denoise, known, mask, scale, num_iterations=1)
    return guided(x, level).x0 - DATA.denoise(x, level).x0, -jax.grad(misfit)(x)

  (change, along), (half, _) = map(jax.device_get, (changes(1.0), changes(0.5)))
  for a, b in zip(change, along, strict=True):
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 1 - 1e-5
  assert_allclose(half, 0.5 * change, atol=1e-5)


def test_a_denoiser_without_a_gradient_is_not_changed():
  """x_0 stays the same if it ignores x, or agrees with the known pixels."""
  level, deaf = level_at(SCHEDULE, 0.5), lambda x, level: dj.Prediction(jnp.full_like(x, 0.25))
  mask = np.array([[True, False, True]])

  @jax.jit
  def estimate(x, known):
    return dj.reconstruction_guided(deaf, known, mask, num_iterations=3)(x, level).x0

  x = normal(2, 3)
  for known in (1.0, 0.25):
    assert_array_equal(estimate(x, np.full((2, 3), known, np.float32)), 0.25)


def smooth(num):
  """Returns the covariance of a Gaussian process (Matern 3/2), [num, num]."""
  at = np.linspace(0.0, 1.0, num)
  distance = np.sqrt(3.0) * np.abs(at[:, None] - at) / 0.2
  return (1.0 + distance) * np.exp(-distance)


def test_an_asymmetric_jacobian_does_not_throw_draws_away(key):
  """The Jacobian is wrong by more than the least eigenvalues of A J A^T."""
  rng = np.random.default_rng(1)
  prior = oracles.gaussian(np.zeros(32), smooth(32))
  seen = np.arange(0, 32, 4)
  matrix, level = np.eye(32)[seen], dj.NoiseLevel(0.5, 1.0, 5.0)
  level = jax.tree.map(jnp.asarray, level)
  jacobian = smooth(32) @ np.linalg.inv(smooth(32) + 25.0 * np.eye(32))
  error = rng.normal(size=(32, 32))
  error *= 0.3 * np.linalg.norm(jacobian) / np.linalg.norm(error)
  y = rng.multivariate_normal(np.zeros(32), smooth(32))[seen]
  observe = lambda x: x @ jnp.asarray(matrix.T, jnp.float32)

  exact = prior.posterior(matrix, y, 0.1)

  @jax.jit
  def draw(key):
    x = exact.sample(key, 200) + 5.0 * jax.random.normal(key, (200, 32))
    return x, exact.denoise(x, level).x0

  x, expected = draw(key)
  expected = np.asarray(expected, np.float64)

  @functools.partial(jax.jit, static_argnums=1)
  def guided(error, num_iterations):
    def denoise(x, level):
      return dj.Prediction(prior.denoise(x, level).x0 + x @ error)

    y_0 = jnp.asarray(y[None], jnp.float32)
    return dj.observation_guided(denoise, observe, y_0, num_iterations=num_iterations, std=0.1)(
      x, level
    ).x0

  def largest(error, num_iterations):
    """Returns the largest error of 200 draws, of data with unit variance."""
    found = np.float64(guided(np.float32(error), num_iterations))
    return np.sqrt(np.mean((found - expected) ** 2, axis=1)).max()

  assert largest(error, 8) < 1.0
  assert largest(0.0 * error, 8) < 0.02
  # One iteration is not enough for correlated data.
  assert largest(0.0 * error, 1) > 0.2


def test_noise_in_y_counts_at_low_levels(key):
  """Noise in y counts where sigma^2 is far below 1e-4 and y is as noisy as x_t."""
  level = jax.tree.map(jnp.asarray, dj.NoiseLevel(0.01, 1.0, 3e-3))
  observe = lambda x0: x0 @ jnp.asarray(POOL.T, jnp.float32)
  y = np.array([0.3, -0.1])
  exact = DATA.posterior(POOL, y, 3e-3)
  guided = dj.observation_guided(DATA.denoise, observe, jnp.asarray(y[None], jnp.float32), std=3e-3)

  @jax.jit
  def estimates(key):
    x = exact.sample(key, 3) + 3e-3 * jax.random.normal(key, (3, 4))
    return guided(x, level).x0, exact.denoise(x, level).x0

  found, expected = estimates(key)
  assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize('std', [0.0, 0.1])
def test_what_no_image_explains_is_outside_the_range(std):
  """NumPy's pseudoinverse agrees, for a matrix of rank 2 in 5 numbers."""
  rng = np.random.default_rng(3)
  a = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 4))
  y = rng.normal(size=(6, 5))
  forward = jax.jit(lambda x: x @ jnp.asarray(a.T, jnp.float32))
  m = dj.Measurement(np.float32(y), forward, std)
  x0 = np.ones((6, 4), np.float32)

  @jax.jit
  def run(y, x0):
    each = dj.Measurement(y, forward, std), dj.Measurement(y, forward, 0.1)
    return [dj.unexplained(m, x0, precision=p) for m, p in zip(each, (0.0, 2.0), strict=True)]

  found, noisy = run(m.y, x0)
  expected = y - y @ (a @ np.linalg.pinv(a)).T
  assert np.abs(expected).max() > 0.5
  assert_allclose(found, expected, atol=1e-5)
  inverse = np.linalg.inv(a.T @ a / 0.01 + 2.0 * np.eye(4))  # prior N(0, I / 2)
  expected = y - (y @ a / 0.01) @ inverse.T @ a.T
  assert_allclose(noisy, expected, atol=1e-5)
  nothing = run(np.asarray(forward(x0)), x0)[0]
  assert_allclose(nothing, 0.0, atol=1e-5)
  with pytest.raises(TypeError, match='not linear'):
    dj.unexplained(dj.Measurement(m.y, jax.jit(jnp.square), std), x0)


def by_moments(denoise, m):
  return dj.observation_guided(denoise, m.forward, m.y, num_iterations=2, std=m.std)


def by_pseudoinverse(denoise, m):
  return dj.pseudoinverse_guided(denoise, m, num_iterations=2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def guided_and_exact(prior, make, std, fields, key):
  x = 1.5 * jax.random.normal(key, (4, 4))
  guided, exact = make(prior.denoise, measured(std)), oracles.Mixture(*fields)
  return guided(x, LEVELS).x0, exact.denoise(x, LEVELS).x0


def estimates(prior, make, std, key):
  """Returns a guided x_0 and the exact posterior's, [4, 4]."""
  fields = dataclasses.astuple(prior.posterior(MATRIX, Y, std))
  return guided_and_exact(prior, make, std, fields, key)


@transcribes(
  'Reconstruction guidance (Ho et al. 2022; Chung et al. 2023; Song et al. 2023; Rozet et '
  'al. 2024)',
  "with noise in y: moment matching; ΠGDM (Song et al. 2023); DiffPIR's proximal point "
  '(Zhu et al. 2023)',
  '`observation_guided(std=)`, `pseudoinverse_guided`, `proximal`',
)
@pytest.mark.parametrize('std', [0.01, 0.1, 1.0, 1e4])  # the last leaves the prior
@pytest.mark.parametrize(
  'prior, make', [(DATA, by_moments), (WHITE, by_moments), (WHITE, by_pseudoinverse)]
)
def test_gaussian_data_have_the_exact_posterior_at_every_level(prior, make, std, key):
  found, expected = estimates(prior, make, std, key)
  assert_allclose(found, expected, atol=2e-3)


@jax.jit
def proximal_point(x, std, weight):
  moved = dj.proximal(DATA.denoise, measured(std), weight, num_iterations=4)
  return moved(x, LEVELS).x0


@transcribes(
  'Reconstruction guidance (Ho et al. 2022; Chung et al. 2023; Song et al. 2023; Rozet et '
  'al. 2024)',
  "with noise in y: moment matching; ΠGDM (Song et al. 2023); DiffPIR's proximal point "
  '(Zhu et al. 2023)',
)
@pytest.mark.parametrize('std, weight', [(0.1, 1.0), (1.0, 1.0), (0.3, 7.0)])
def test_the_proximal_point_has_no_gradient(std, weight):
  x = normal(4, 4)
  found = np.asarray(proximal_point(x, std, weight), np.float64)
  x0 = np.asarray(jitted(DATA.denoise)(x, LEVELS).x0, np.float64)
  rho = (np.asarray(LEVELS.sigma) / np.asarray(LEVELS.alpha))[:, None]
  misfit = (found @ MATRIX.T - Y[None]) @ MATRIX / std**2
  gradient = misfit + weight * (found - x0) / rho**2
  scale = np.abs(misfit).max(axis=1) + 1.0
  assert (np.abs(gradient).max(axis=1) / scale).max() < 2e-3


def test_a_proximal_point_without_noise_is_the_projection():
  x = normal(4, 4)
  moved = dj.proximal(DATA.denoise, measured(0.0), num_iterations=2)
  found = np.asarray(jax.jit(moved)(x, LEVELS).x0, np.float64)
  x0 = np.asarray(jitted(DATA.denoise)(x, LEVELS).x0, np.float64)
  inverse = np.linalg.pinv(MATRIX)
  expected = x0 + (Y[None] - x0 @ MATRIX.T) @ inverse.T
  assert_allclose(found, expected, atol=1e-4)


def test_no_signal_no_guidance():
  """x_t is independent of y where alpha = 0."""
  level = level_at(dj.RectifiedFlowSchedule(), 1.0)
  x = normal(4, 4)
  expected = jitted(DATA.denoise)(x, level).x0
  for make in (by_moments, by_pseudoinverse):
    found = jax.jit(make(DATA.denoise, measured(0.1)))(x, level).x0
    assert_array_equal(found, expected)


@transcribes(
  'Reconstruction guidance (Ho et al. 2022; Chung et al. 2023; Song et al. 2023; Rozet et '
  'al. 2024)',
  'E[x_0 given x_t, y] of a linear y',
)
def test_any_linear_observation():
  """Means of pairs are the super-resolution of four pixels."""
  level = level_at(SCHEDULE, 0.4)
  x, truth = normal(2, 3, 4)
  observe = lambda x0: x0 @ jnp.asarray(POOL.T, jnp.float32)

  @jax.jit
  def guided(x):
    y = observe(truth)
    return dj.observation_guided(DATA.denoise, observe, y, num_iterations=2)(x, level)

  y = np.asarray(truth, np.float64) @ POOL.T
  expected = posterior_mean(POOL, y, x, level)
  assert_allclose(guided(x).x0, expected, atol=2e-3)


def test_an_assumed_variance_is_not_that_of_correlated_data(key):
  found, expected = estimates(DATA, by_pseudoinverse, 0.1, key)
  assert np.abs(found - expected).max() > 0.05

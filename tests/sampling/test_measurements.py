"""Guidance by noisy measurements, against the exact posterior."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, poisson

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at
from tests.sampling.test_reconstruction import DATA, SCHEDULE

# Neither square nor symmetric.
MATRIX = np.array([[1.0, 0.5, 0.0, -0.5], [0.0, 1.0, 2.0, 0.3]])
Y = np.array([0.7, -0.4])
WHITE = oracles.gaussian(np.zeros(4), np.eye(4))
LEVELS = level_at(SCHEDULE, np.float32([0.02, 0.2, 0.5, 0.9]))
MIDDLE = level_at(SCHEDULE, np.float32(0.5))


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


@pytest.mark.parametrize('std', [0.01, 0.1, 1.0])
@pytest.mark.parametrize(
  'prior, make', [(DATA, by_moments), (WHITE, by_moments), (WHITE, by_pseudoinverse)]
)
def test_gaussian_data_have_the_exact_posterior_at_every_level(prior, make, std, key):
  found, expected = estimates(prior, make, std, key)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_assumed_variance_is_not_that_of_correlated_data(key):
  found, expected = estimates(DATA, by_pseudoinverse, 0.1, key)
  assert np.abs(found - expected).max() > 0.05


@pytest.mark.parametrize('make', [by_moments, by_pseudoinverse, dj.proximal])
def test_much_noise_leaves_the_prior(make, key):
  x = jax.random.normal(key, (4, 4))
  found = jax.jit(make(DATA.denoise, measured(1e4)))(x, LEVELS).x0
  expected = jitted(DATA.denoise)(x, LEVELS).x0
  np.testing.assert_allclose(found, expected, atol=1e-4)


@jax.jit
def proximal_point(x, std, weight):
  moved = dj.proximal(DATA.denoise, measured(std), weight, num_iterations=4)
  return moved(x, LEVELS).x0


@pytest.mark.parametrize('std, weight', [(0.1, 1.0), (1.0, 1.0), (0.3, 7.0)])
def test_the_proximal_point_has_no_gradient(std, weight, key):
  x = jax.random.normal(key, (4, 4))
  found = np.asarray(proximal_point(x, std, weight), np.float64)
  x0 = np.asarray(jitted(DATA.denoise)(x, LEVELS).x0, np.float64)
  rho = (np.asarray(LEVELS.sigma) / np.asarray(LEVELS.alpha))[:, None]
  misfit = (found @ MATRIX.T - Y[None]) @ MATRIX / std**2
  gradient = misfit + weight * (found - x0) / rho**2
  scale = np.abs(misfit).max(axis=1) + 1.0
  assert (np.abs(gradient).max(axis=1) / scale).max() < 2e-3


def test_a_proximal_point_without_noise_is_the_projection(key):
  x = jax.random.normal(key, (4, 4))
  moved = dj.proximal(DATA.denoise, measured(0.0), num_iterations=2)
  found = np.asarray(jax.jit(moved)(x, LEVELS).x0, np.float64)
  x0 = np.asarray(jitted(DATA.denoise)(x, LEVELS).x0, np.float64)
  inverse = np.linalg.pinv(MATRIX)
  expected = x0 + (Y[None] - x0 @ MATRIX.T) @ inverse.T
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_no_signal_no_guidance(key):
  """x_t is independent of y where alpha = 0."""
  level = level_at(dj.RectifiedFlowSchedule(), 1.0)
  x = jax.random.normal(key, (4, 4))
  expected = jitted(DATA.denoise)(x, level).x0
  for make in (by_moments, by_pseudoinverse):
    found = jax.jit(make(DATA.denoise, measured(0.1)))(x, level).x0
    np.testing.assert_array_equal(found, expected)


def by_drawing(_, m):
  return lambda x, level: dj.gaussian_draw(m)(jax.random.key(0), x, level.sigma)


@pytest.mark.parametrize('make', [dj.proximal, dj.pseudoinverse_guided, by_drawing])
def test_a_measurement_that_is_not_linear_is_refused(make):
  for forward in (lambda x: x + 1.0, lambda x: jnp.clip(x, -0.1, 0.1)):
    m = dj.Measurement(jnp.zeros((1, 4)), jax.jit(forward), 0.1)
    with pytest.raises(TypeError, match='forward is not linear'):
      jax.eval_shape(make(DATA.denoise, m), jnp.ones((2, 4)), MIDDLE)


def test_a_function_is_asked_for_each_shape_whether_it_is_linear():
  @dataclasses.dataclass  # without a hash
  class Shifted:
    def __call__(self, x):
      return x + (x.shape[1] == 3)

  for forward in (Shifted(), Shifted().__call__, lambda x: Shifted()(x)):
    for size in (2, 3, 2, 3):
      m = dj.Measurement(np.zeros((1, size)), forward)
      x = np.zeros((1, size), np.float32)
      if size == 2:
        np.testing.assert_array_equal(m.transpose(x)(x), x)
      else:
        with pytest.raises(TypeError, match='forward is not linear'):
          m.transpose(x)


@pytest.mark.parametrize('shape', [(1, 3), (3, 2), (2,), (1, 1)])
def test_a_y_of_another_shape_is_refused(shape):
  m = dataclasses.replace(measured(0.1), y=np.zeros(shape, np.float32))
  key, x = jax.random.key(0), jnp.ones((2, 4))
  calls = [
    m.log_prob,
    m.distance,
    lambda x: dj.pseudoinverse_guided(DATA.denoise, m)(x, MIDDLE),
    lambda x: dj.proximal(DATA.denoise, m)(x, MIDDLE),
    lambda x: dj.gaussian_draw(m)(key, x, jnp.array(1.0)),
  ]
  for call in calls:
    with pytest.raises(ValueError, match=r'y has the shape .*, and forward'):
      jax.eval_shape(call, x)


def test_log_prob_is_scipys(key):
  x = jax.random.uniform(key, (3, 4), minval=-1.0)
  std = np.array([0.1, 0.5, 2.0], np.float32)
  mean = np.asarray(x, np.float64) @ MATRIX.T
  expected = norm.logpdf(Y[None], mean, std[:, None].astype(float)).sum(axis=1)
  found = jax.jit(lambda std: measured(std).log_prob(x))(std)
  np.testing.assert_allclose(found, expected, rtol=1e-5)

  counts = np.array([[3, 0, 7, 1]] * 3)
  log_prob = dj.poisson_log_prob(jnp.asarray(counts), lambda x: x, 20.0)
  rate = 10.0 * (np.asarray(x, np.float64) + 1.0)
  expected = poisson.logpmf(counts, rate).sum(axis=1)
  np.testing.assert_allclose(jitted(log_prob)(x), expected, rtol=1e-4)

"""The problems for samplers of any framework, against the oracles and scipy."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.testing import bench, oracles

PROBLEMS = pytest.mark.parametrize(
  'problem', [bench.gaussian(), bench.mixture(), bench.image(4)], ids=lambda p: p.name
)


def noisy(problem, sigma, alpha=1.0, n=5):
  rng = np.random.default_rng(0)
  x0 = problem.draw(rng, n)
  return alpha * x0 + sigma * rng.normal(size=x0.shape)


@PROBLEMS
def test_estimates_are_the_oracles(problem):
  """Estimates equal the oracles' in both conventions: alpha = 1 and alpha^2 + sigma^2 = 1."""
  oracle = oracles.mixture(problem.weights, problem.means, problem.covs)
  exact = jax.jit(lambda x, level: (oracle.denoise(x, level).x0, oracle.score(x, level)))
  for alpha, sigma in ((1.0, 3.0), (0.8, 0.6), (0.0, 1.0)):
    x, level = noisy(problem, sigma, alpha), dj.NoiseLevel(*np.array([0, alpha, sigma], np.float32))
    found = exact(x.reshape(5, -1).astype(np.float32), level)
    x0, score = (np.asarray(a).reshape(x.shape) for a in found)
    eps, v = -sigma * score, -sigma * alpha * score - sigma * x0
    assert_allclose(problem.denoise(x, np.full(5, sigma), alpha), x0, atol=1e-5)
    assert_allclose(problem.score(x, sigma, alpha), score, atol=1e-5)
    assert_allclose(problem.eps(x, sigma, alpha), eps, atol=1e-5)
    assert_allclose(problem.v(x, sigma, alpha), v, atol=1e-5)


@pytest.mark.parametrize('problem', [bench.gaussian(), bench.image(4)])
def test_the_velocity_is_a_difference_of_the_flow_map(problem):
  """The velocity is of straight paths; the map of a Gaussian is a closed form."""
  x, h = noisy(problem, 0.5, 0.5), 1e-4
  times = 0.5 + h, 0.5 - h  # sigma / alpha is t / (1 - t), 1 at x
  later, earlier = ((1 - t) * problem.flow_map(2 * x, 1.0, t / (1 - t)) for t in times)
  assert_allclose(problem.velocity(x, 0.5), (later - earlier) / (2 * h), atol=1e-4)


@PROBLEMS
def test_the_jacobian_product_is_a_difference(problem):
  x = noisy(problem, 0.5, 0.5)
  vector = np.random.default_rng(1).normal(size=x.shape)
  ahead, behind = (problem.denoise(x + s * vector, 0.5, 0.9) for s in (1e-5, -1e-5))
  product = problem.jacobian_product(x, vector, 0.5, 0.9)
  assert_allclose(product, (ahead - behind) / 2e-5, atol=1e-7)


@PROBLEMS
def test_draws_have_mean_and_covariance(problem):
  x = problem.draw(np.random.default_rng(0), 100_000).reshape(100_000, -1)
  assert_allclose(x.mean(axis=0), problem.mean, atol=0.02)
  assert_allclose(np.cov(x.T), problem.covariance, atol=0.05)
  assert x.std() == pytest.approx(np.sqrt(problem.covariance.trace() / x.shape[1]), rel=0.2)


def test_the_covariance_of_images_is_stationary():
  """A shift of the torus leaves it; its spectrum is 1 / (1 + f^2)."""
  cov = bench.image(8).covariance.reshape(8, 8, 8, 8)
  assert_allclose(np.roll(cov, (1, 3, 1, 3), (0, 1, 2, 3)), cov, atol=1e-12)
  spectrum = np.fft.fft2(cov[0, 0]).real
  assert cov[0, 0, 0, 0] == pytest.approx(0.25)
  assert spectrum[0, 0] / spectrum[2, 1] == pytest.approx(6.0)


def test_calls_are_counted():
  problem = bench.gaussian()
  problem.eps(np.ones((3, 2)), 1.0)
  problem.v(np.ones((4, 2)), 0.6, 0.8)
  assert problem.calls == {'denoise': 2, 'denoise_rows': 7}


def test_the_posterior_is_gaussian_regression():
  """Kalman's gain, in float64; the denoiser does not change."""
  problem = bench.inpainting(4)
  data = bench.image(4)
  assert problem.measurement and problem.posterior
  matrix, y, std = problem.measurement
  gain = data.covariance @ matrix.T
  gain @= np.linalg.inv(matrix @ data.covariance @ matrix.T + std**2 * np.eye(len(y)))
  assert_allclose(problem.posterior.mean, gain @ y, atol=1e-12)
  expected = data.covariance - gain @ matrix @ data.covariance
  assert_allclose(problem.posterior.covariance, expected, atol=1e-12)
  x = noisy(data, 1.0)
  assert_array_equal(problem.denoise(x, 1.0), data.denoise(x, 1.0))

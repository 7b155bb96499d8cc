"""Simulators have the distributions that their docstrings name."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.gaussian_process.kernels import Matern

from diffusion_jax.demos import simulators


def test_the_exact_posterior_of_two_moons_is_prior_times_likelihood():
  """On a grid: p(c | x) is N(r; 0.1, 0.01^2) / (pi r), in polar coordinates."""
  observation, side = np.array([-0.3, 0.2]), np.linspace(-1.0, 1.0, 1500)
  x = np.stack(np.meshgrid(side, side, indexing='ij'), axis=-1)
  shift = np.stack([-np.abs(x.sum(-1)), x[..., 1] - x[..., 0]], axis=-1)
  point = observation - shift / np.sqrt(2.0) - [0.25, 0.0]
  r = np.linalg.norm(point, axis=-1)
  weight = np.where(point[..., 0] > 0.0, norm.pdf(r, 0.1, 0.01) / r, 0.0)
  weight /= weight.sum()

  n = 20_000
  drawn = simulators.two_moons_posterior(
    np.random.default_rng(0), n, observation
  )
  assert drawn.shape == (n, 2) and np.abs(drawn).max() <= 1.0
  for statistic in (
    lambda x: x[..., 0],
    lambda x: x[..., 1],
    lambda x: x[..., 0] * x[..., 1],
    lambda x: (x[..., 1] - x[..., 0]) ** 2,
    lambda x: x.sum(-1) > 0.0,
    lambda x: np.abs(x.sum(-1)) < 0.85,
  ):
    values = statistic(drawn).astype(float)
    expected = np.sum(weight * statistic(x))
    assert abs(values.mean() - expected) < 5 * values.std() / n**0.5


def test_two_moons_simulates_what_its_posterior_is_of():
  """Pairs near an observation are draws of its posterior."""
  observation = np.array([-0.3, 0.2])
  pairs = simulators.two_moons(np.random.default_rng(0), 2_000_000)
  assert abs(pairs['x']).max() <= 1.0
  near = np.abs(pairs['context'] - observation).max(axis=1) < 0.02
  x = pairs['x'][near]
  exact = simulators.two_moons_posterior(
    np.random.default_rng(1), 20_000, observation
  )
  assert len(x) > 500
  error = np.abs(x.mean(0) - exact.mean(0)) / (exact.std(0) / len(x) ** 0.5)
  assert error.max() < 5
  np.testing.assert_allclose(x.std(0), exact.std(0), rtol=0.1)


@pytest.mark.parametrize('sides', [(5,), (3, 4), (2, 3, 2)])
def test_a_gaussian_process_has_the_kernel_of_scikit_learn(sides):
  n, std = 40_000, np.array([10.0, 2e-3])
  x = simulators.gaussian_process(
    np.random.default_rng(0), n, sides, 4.0, (280.0, -1.0), (*std,), 0.6
  )['x']
  assert x.shape == (n, *sides, 2)
  expected = np.ones((1, 1))
  for side in sides:
    kernel = Matern(4.0, nu=1.5)(np.arange(side)[:, None])
    expected = np.kron(expected, kernel)
  expected = np.kron(expected, [[1.0, 0.6], [0.6, 1.0]])
  z = ((x - [280.0, -1.0]) / std).reshape(n, -1)
  assert np.abs(z.mean(axis=0)).max() < 5 / n**0.5
  assert np.abs(z.T @ z / n - expected).max() < 5 * (2 / n) ** 0.5

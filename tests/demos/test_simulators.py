"""Simulators against densities and covariances in closed form."""

import numpy as np
import pytest
from scipy import stats

from diffusion_jax.demos import simulators


def test_the_crescent_and_its_shift():
  """Lueckmann et al. 2021, T.8: y minus the shift of x is a half ring."""
  n = 20_000
  made = simulators.two_moons(np.random.default_rng(0), n)
  x, y = made['x'], made['context']
  assert x.shape == y.shape == (n, 2) and np.abs(x).max() <= 1.0
  p = y + np.stack([np.abs(x[:, 0] + x[:, 1]), x[:, 0] - x[:, 1]], 1) / 2**0.5
  radius = np.hypot(p[:, 0] - 0.25, p[:, 1])
  angle = np.arctan2(p[:, 1], p[:, 0] - 0.25)
  assert stats.kstest(radius, stats.norm(0.1, 0.01).cdf).pvalue > 1e-4
  half = stats.uniform(-np.pi / 2, np.pi)
  assert stats.kstest(angle, half.cdf).pvalue > 1e-4
  for coordinate in x.T:
    assert stats.kstest(coordinate, stats.uniform(-1, 2).cdf).pvalue > 1e-4


def log_likelihood(x, y):
  """Returns log p(y | x) by the density of a ring in polar coordinates."""
  shift = np.stack([np.abs(x[..., 0] + x[..., 1]), x[..., 0] - x[..., 1]], -1)
  p = y + shift / 2**0.5 - [0.25, 0.0]
  radius = np.hypot(p[..., 0], p[..., 1])
  inside = np.where(p[..., 0] > 0, 0.0, -np.inf)
  return inside + stats.norm.logpdf(radius, 0.1, 0.01) - np.log(np.pi * radius)


@pytest.mark.parametrize('y', [(0.0, 0.0), (-0.4, 0.7)])
def test_the_posterior_is_that_of_a_fine_grid(y):
  """Also where the box of the prior cuts a crescent."""
  axis = np.linspace(-1, 1, 1601)
  grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1)
  mass = np.exp(log_likelihood(grid, np.array(y)))
  mass /= mass.sum()
  n = 20_000
  x = simulators.two_moons_posterior(np.random.default_rng(1), n, y)
  assert x.shape == (n, 2) and np.abs(x).max() <= 1.0
  for function in (
    lambda x: x[..., 0], lambda x: x[..., 1], lambda x: x[..., 0] ** 2,
    lambda x: x[..., 0] * x[..., 1], lambda x: 1.0 * (x.sum(axis=-1) > 0),
    lambda x: np.abs(x.sum(axis=-1)),
  ):  # fmt: skip
    expected, values = np.sum(mass * function(grid)), function(x)
    error = values.std() / n**0.5
    assert abs(values.mean() - expected) < 4.5 * error + 1e-3


def test_the_kernel_is_materns_of_three_halves():
  """Against scikit-learn's."""
  from sklearn.gaussian_process.kernels import Matern

  place = np.arange(9.0)[:, None]
  expected = Matern(length_scale=3.0, nu=1.5)(place)
  np.testing.assert_allclose(simulators.matern(9, 3.0), expected, rtol=1e-12)


def test_a_process_has_its_covariance():
  """The product of the kernels of the axes and of the channels."""
  n, sides, std = 40_000, (4, 3), np.array([2.0, 0.5])
  made = simulators.gaussian_process(
    np.random.default_rng(0), n, sides, 2.0, (7.0, -1.0), tuple(std), 0.6
  )['x']
  assert made.shape == (n, 4, 3, 2)
  z = ((made - [7.0, -1.0]) / std).reshape(n, -1)
  np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=4.5 / n**0.5)
  channels = np.array([[1.0, 0.6], [0.6, 1.0]])
  rows, columns = (simulators.matern(side, 2.0) for side in sides)
  expected = np.kron(np.kron(rows, columns), channels)
  np.testing.assert_allclose(z.T @ z / n, expected, atol=6 * 2**0.5 / n**0.5)

"""Simulators have the distributions that their docstrings name."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import solve_ivp
from scipy.linalg import block_diag
from scipy.stats import binom, norm
from sklearn.gaussian_process.kernels import Matern

from diffusion_jax.demos import simulators


@pytest.mark.parametrize('observation, middle', [((-0.3, 0.2), 0.85), ((0.3, 0.1), 0.03)])
def test_the_exact_posterior_of_two_moons_is_prior_times_likelihood(observation, middle):
  """On a grid: p(c | x) is N(r; 0.1, 0.01^2) / (pi r), in polar coordinates.

  Of the second crescent a part is beyond the fold, x_1 + x_2 = 0.
  """
  side = np.linspace(-1.0, 1.0, 1500)
  x = np.stack(np.meshgrid(side, side, indexing='ij'), axis=-1)
  shift = np.stack([-np.abs(x.sum(-1)), x[..., 1] - x[..., 0]], axis=-1)
  point = observation - shift / np.sqrt(2.0) - [0.25, 0.0]
  r = np.linalg.norm(point, axis=-1)
  weight = np.where(point[..., 0] > 0.0, norm.pdf(r, 0.1, 0.01) / r, 0.0)
  weight /= weight.sum()

  n = 20_000
  drawn = simulators.two_moons_posterior(np.random.default_rng(0), n, observation)
  assert drawn.shape == (n, 2) and np.abs(drawn).max() <= 1.0
  for statistic in (
    lambda x: x[..., 0],
    lambda x: x[..., 1],
    lambda x: x[..., 0] * x[..., 1],
    lambda x: (x[..., 1] - x[..., 0]) ** 2,
    lambda x: x.sum(-1) > 0.0,
    lambda x: np.abs(x.sum(-1)) < middle,
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
  exact = simulators.two_moons_posterior(np.random.default_rng(1), 20_000, observation)
  assert len(x) > 500
  error = np.abs(x.mean(0) - exact.mean(0)) / (exact.std(0) / len(x) ** 0.5)
  assert error.max() < 5
  assert_allclose(x.std(0), exact.std(0), rtol=0.1)


@pytest.mark.parametrize('sides', [(5,), (3, 4), (2, 3, 2)])
def test_a_gaussian_process_has_the_kernel_of_scikit_learn(sides):
  n, std = 40_000, np.array([10.0, 2e-3])
  x = simulators.gaussian_process(
    np.random.default_rng(0),
    n,
    sides=sides,
    length=4.0,
    mean=(280.0, -1.0),
    std=(*std,),
    correlation=0.6,
  )['x']
  assert x.shape == (n, *sides, 2)
  matern = Matern(4.0, nu=1.5)
  kernels = [matern(np.arange(side)[:, None]) for side in sides]
  expected = functools.reduce(np.kron, [*kernels, [[1.0, 0.6], [0.6, 1.0]]])
  z = ((x - [280.0, -1.0]) / std).reshape(n, -1)
  assert np.abs(z.mean(axis=0)).max() < 5 / n**0.5
  assert np.abs(z.T @ z / n - expected).max() < 5 * (2 / n) ** 0.5


N = 20_000
FEW = 2000  # of those that solve an equation


@functools.cache
def simulated(name, n=N):
  made = simulators.BENCHMARK[name](np.random.default_rng(0), n)
  return made['x'], made['context']


def assert_normal(z):
  """Checks that the columns of z are independent and standard normal."""
  n = len(z)
  assert np.abs(z.mean(axis=0)).max() < 5 / n**0.5
  errors = np.abs(z.T @ z / n - np.eye(z.shape[1]))
  assert errors.max() < 5 * (2 / n) ** 0.5


def test_gaussian_linear_has_the_posterior_of_its_docstring():
  """x - context / 2 is N(0, 0.05), and independent of context ~ N(0, 0.2)."""
  x, y = simulated('gaussian_linear')
  z = np.concatenate([(x - y / 2) / 0.05**0.5, y / 0.2**0.5], axis=1)
  assert_normal(z)


@pytest.mark.parametrize(
  'name, high', [('gaussian_linear_uniform', 1.0), ('gaussian_mixture', 10.0), ('slcp', 3.0)]
)
def test_a_uniform_prior_fills_its_box(name, high):
  x, _ = simulated(name)
  assert np.abs(x).max() <= high
  assert_normal(x * 3**0.5 / high)  # of variance 1, and flat
  low, top = np.quantile(x / high, [0.01, 0.99], axis=0)
  assert_allclose([-low, top], 0.98, atol=0.01)


def test_the_noise_of_vectors_is_what_the_benchmark_says():
  x, y = simulated('gaussian_linear_uniform')
  assert_normal((y - x) / 0.1**0.5)
  x, y = simulated('gaussian_mixture')
  z = y - x
  for radius in (0.05, 0.2, 1.0):  # of both coordinates, which share a std
    share = np.mean(np.abs(z).max(axis=1) < radius)
    each = [(2 * norm.cdf(radius / std) - 1) ** 2 for std in (1.0, 0.1)]
    assert abs(share - np.mean(each)) < 5 * 0.5 / N**0.5
  x, y = simulated('slcp')
  z = (y.reshape(N, 4, 2) - x[:, None, :2]) / x[:, None, 2:4] ** 2
  rho = np.tanh(x[:, 4:])
  z[..., 1] = (z[..., 1] - rho * z[..., 0]) / np.sqrt(1 - rho**2)
  assert_normal(z.reshape(N, 8))


def test_a_spike_has_the_log_odds_of_its_filter():
  """The prior smooths by second differences; context is V^T of the spikes."""
  f = np.eye(9, k=-2) - 2 * np.eye(9, k=-1)
  f += np.diag(1 + (np.arange(9) / 9) ** 0.5)
  x, y = simulated('bernoulli_glm')
  assert_normal(x @ block_diag(0.5**0.5, f).T)
  v = simulators.stimulus_matrix()
  noise = v[:, 1]
  assert_array_equal(v[:, 0], 1.0)
  for delay in range(9):
    assert_array_equal(v[delay:, 1 + delay], noise[: 100 - delay])
    assert not v[:delay, 1 + delay].any()
  p = 1 / (1 + np.exp(-x @ v.T))
  error = (y - p @ v) / np.sqrt((p * (1 - p)) @ v**2)
  assert np.abs(error.mean(axis=0)).max() < 5 / N**0.5
  assert_allclose((error**2).mean(axis=0), 1.0, atol=0.06)
  assert np.all(y[:, 0] == np.rint(y[:, 0])) and 0 <= y[:, 0].min()


def scipy_solution(change, first, times):
  span = 0, times[-1]
  return solve_ivp(change, span, first, 'LSODA', times, rtol=1e-9, atol=1e-9).y


def test_the_solutions_are_those_of_scipy():
  """The first four agree in the units of the equations."""
  x = simulated('lotka_volterra', FEW)[0]
  found = np.exp(simulators.populations(x))[:4].reshape(4, 2, 10)
  for (a, b, c, d), curve in zip(np.exp(x[:4]), found, strict=True):

    def predation(t, y, a=a, b=b, c=c, d=d):
      return [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]

    exact = scipy_solution(predation, [30, 1], 2.1 * np.arange(10))
    assert_allclose(curve, exact, rtol=5e-3, atol=1e-4)
  x = simulated('sir', FEW)[0]
  found = np.exp(simulators.infected(x))[:4]
  for (b, g), curve in zip(np.exp(x[:4]), found, strict=True):

    def epidemic(t, y, b=b, g=g):
      return [-b * y[0] * y[1] / 1e6, b * y[0] * y[1] / 1e6 - g * y[1]]

    exact = scipy_solution(epidemic, [1e6 - 1, 1], np.arange(0, 154, 17))
    assert_allclose(curve, exact[1, 1:] / 1e6, rtol=1e-3)


def test_epidemics_and_populations_are_observed_with_noise():
  n = FEW
  x, y = simulated('lotka_volterra', n)
  assert_normal((x - [-0.125, -3.0, -0.125, -3.0]) / 0.5)
  clipped = np.maximum(simulators.populations(x), np.log(1e-10))
  assert_normal((y - clipped) / 0.1)
  x, y = simulated('sir', n)
  assert_normal((x - np.log([0.4, 0.125])) / [0.5, 0.2])
  counts, p = np.expm1(y), np.exp(simulators.infected(x))
  assert_allclose(counts, np.rint(counts), atol=1e-9)
  below = binom.cdf(np.rint(counts) - 1, 1000, p)
  at = binom.pmf(np.rint(counts), 1000, p)
  level = below + at * np.random.default_rng(1).uniform(size=at.shape)
  assert np.abs(level.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / n) ** 0.5
  assert np.abs(level.var(axis=0) - 1 / 12).max() < 5 * (1 / 180 / n) ** 0.5

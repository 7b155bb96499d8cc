"""Errors of posterior samples, for samples whose errors are known."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

from diffusion_jax.metrics import calibration, posterior
from diffusion_jax.testing import oracles

PARTS = (
  np.array([0.4, 0.6]),
  np.array([[-1.0, 0.3], [0.8, -0.2]]),
  np.array([0.1 * np.eye(2), [[0.3, 0.1], [0.1, 0.2]]]),
)
PRIOR = oracles.mixture(*PARTS)
MATRIX, STD = np.array([[0.6, 0.8]]), 0.4
Y = np.array([0.1])
EXACT = PRIOR.posterior(MATRIX, Y, STD)
N = 4000


def errors(x):
  return posterior.posterior_errors(x, EXACT, MATRIX, Y, STD)


@pytest.fixture(scope='module')
def drawn():
  x = np.asarray(jax.jit(EXACT.sample, static_argnums=1)(jax.random.key(0), N), np.float64)
  return x, errors(x)


def test_exact_draws_have_the_least_errors(drawn):
  _, found = drawn
  assert max(found[:4]) < 0.06
  # (y - A x)^2 of the posterior, in closed form.
  mean, cov = np.asarray(EXACT.mean), np.asarray(EXACT.cov)
  expected = np.sqrt(((MATRIX @ mean - Y) ** 2 + MATRIX @ cov @ MATRIX.T).item()) / STD
  assert_allclose(found.residual, expected, rtol=0.04)


def test_a_shift_is_the_error_of_the_mean(drawn):
  x, unshifted = drawn
  shift, trace = np.array([0.3, -0.4]), np.trace(EXACT.cov)
  shifted = errors(x + shift[None])
  assert_allclose(shifted.mean, 0.5 / np.sqrt(trace), atol=0.03)
  # Along a random direction the square of the shift is half of 0.5^2.
  assert_allclose(shifted.sliced_w2, np.sqrt(0.125 / (trace / 2.0)), atol=0.05)
  assert_allclose(shifted.cov, unshifted.cov, atol=1e-6)


def test_a_missing_mode_is_the_error_of_the_modes(rng):
  """The components hardly overlap, so one of them has all the weight."""
  weights, means, covs = oracles.moments(EXACT)
  x = rng.multivariate_normal(means[0], covs[0], N)
  assert_allclose(errors(x).modes, 1.0 - weights[0], atol=0.06)


def test_quantiles_are_those_of_the_distribution():
  direction, levels = np.array([0.6, -0.8]), np.linspace(0.01, 0.99, 23)
  found = posterior.quantiles(PRIOR, direction, levels)
  means, stds = PARTS[1] @ direction, np.sqrt(PARTS[2] @ direction @ direction)
  cdf = norm.cdf(found[:, None], means, stds) @ PARTS[0]
  assert_allclose(cdf, levels, atol=1e-4)


def test_levels_of_exact_draws_are_uniform_and_of_others_not(key):
  num, n = 600, 49
  truth = np.asarray(PRIOR.sample(key, num), np.float64)
  y = truth @ MATRIX.T + STD * np.random.default_rng(0).normal(size=(num, 1))
  exact = [PRIOR.posterior(MATRIX, one, STD) for one in y]

  @jax.jit
  @jax.vmap
  def draws(i, arrays):
    one = oracles.Mixture(*arrays)
    return one.sample(jax.random.fold_in(key, i), n), one.mean

  arrays = [dataclasses.astuple(one) for one in exact]
  stacked = [np.stack(one) for one in zip(*arrays, strict=True)]
  x, mean = map(np.asarray, draws(np.arange(num), stacked))

  def levels(spread):
    some = mean[:, None] + spread * (x - mean[:, None])
    return posterior.levels(PRIOR, MATRIX, STD, truth, y, some)

  exact = levels(1.0)
  found = calibration.coverage(exact)
  assert calibration.uniformity(exact).chi2 > 1e-3
  assert abs(found.fraction - 0.9) < 4.0 * found.standard_error
  assert_allclose(found.standard_error, 0.0122, atol=0.003)

  narrow = levels(0.5)
  assert calibration.uniformity(narrow).chi2 < 1e-6
  assert calibration.coverage(narrow).fraction < 0.8


def test_the_errors_of_evidence():
  found = posterior.evidence_errors(np.log([1.0, 3.0]) + 5.0, 5.0)
  assert_allclose(found, (2.0, 1.0, 0.5 * np.log(3.0)), rtol=1e-12)


def test_samples_at_the_quantiles_have_no_distance():
  """The i-th of n samples is the quantile (i + 1/2) / n."""
  exact = oracles.gaussian(np.zeros(1), np.eye(1))
  assert posterior.sliced_w2(norm.ppf((np.arange(20) + 0.5) / 20)[:, None], exact) < 1e-3


def test_the_error_of_the_covariance_is_in_its_norm():
  """Four times the covariance I has the error 3."""
  exact = oracles.gaussian(np.zeros(2), np.eye(2))
  x = np.sqrt(3.0) * np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
  found = posterior.posterior_errors(x, exact, MATRIX, Y, STD)
  assert_allclose(np.cov(x.T), 4.0 * np.eye(2), atol=1e-12)
  assert_allclose(found.cov, 3.0, rtol=1e-5)

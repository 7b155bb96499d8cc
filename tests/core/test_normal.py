"""Densities of Gaussians and of bins agree with SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.jitted import jitted
from tests.schedules import anything
from tests.transcribed import transcribes


def test_log_prob_is_scipys():
  x, mean, variance = np.random.default_rng(0).uniform(0.1, 2.0, (3, 7))
  found = jitted(dj.log_prob)(dj.Normal(mean, variance), x)
  expected = scipy.stats.norm.logpdf(x, mean, np.sqrt(variance))
  assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('ratio', [1e-8, 0.3, 0.9, 0.999, 1, 1.001, 1.7, 1e8])
def test_kl_of_variances_alone_in_float64(ratio):
  """The KL of close variances is of second order, and of far ones finite."""
  q = np.float32(3.0 * ratio)  # q / 3 is not exact
  u = np.float64(q) / 3.0
  expected = 0.5 * (u - 1.0 - np.log(u))
  found = jitted(dj.kl)(dj.Normal(0.0, q), dj.Normal(0.0, 3.0))
  assert_allclose(found, expected, rtol=2e-4)


LEVELS = (2, 17, 256)


def exact_log_mass(x, mean, scale, num_levels):
  """Returns the log of the Gaussian mass of a bin, in float64 log space."""
  half = 1.0 / (num_levels - 1)
  grid = np.linspace(-1.0, 1.0, num_levels)
  low = np.where(np.isclose(x, grid[0]), -np.inf, x - half)
  high = np.where(np.isclose(x, grid[-1]), np.inf, x + half)
  below = scipy.stats.norm.logcdf(low, mean, scale)
  above = scipy.stats.norm.logsf(high, mean, scale)
  upper = scipy.stats.norm.logcdf(high, mean, scale)
  lower = scipy.stats.norm.logsf(low, mean, scale)
  with np.errstate(divide='ignore'):  # The other side may be infinite.
    left = upper + np.log1p(-np.exp(below - upper))
    right = lower + np.log1p(-np.exp(above - lower))
  return np.where(x < mean, left, right)


@transcribes(
  'DDPM (Ho et al. 2020)',
  '13: discretised decoder',
  '`discretized_log_prob`, `reconstruction_nll`',
)
@anything
@given(st.sampled_from(LEVELS), st.floats(1e-3, 30.0), st.floats(-1.5, 1.5))
def test_discretized_log_prob_is_the_mass_of_the_bin(num_levels, scale, mean):
  x = np.linspace(-1.0, 1.0, num_levels)
  expected = exact_log_mass(x, mean, scale, num_levels)
  found = jitted(dj.discretized_log_prob)(
    dj.Normal(mean, scale**2), jnp.asarray(x, jnp.float32), num_levels
  )
  assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


def test_discretized_tanh_is_ho_et_als_approximation():
  """Published code has 0.5 (1 + tanh(sqrt(2/pi) (z + .044715 z^3)))."""

  def cdf(z):
    return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

  x, mean, scale = np.linspace(-1, 1, 256), 0.1, 0.05
  plus = cdf((x + 1 / 255 - mean) / scale)
  minus = cdf((x - 1 / 255 - mean) / scale)
  mass = np.where(x < -0.999, plus, np.where(x > 0.999, 1 - minus, plus - minus))
  expected = np.log(np.maximum(mass, 1e-12))
  found = jitted(dj.discretized_log_prob)(
    dj.Normal(mean, scale**2), jnp.asarray(x, jnp.float32), cdf='tanh'
  )
  near = np.abs(x - mean) < 4 * scale  # float32 loses 1 - cdf beyond this.
  assert_allclose(found[near], expected[near], atol=5e-3)
  assert_allclose(found[-1], np.log(1e-12), rtol=1e-5)


@pytest.mark.parametrize('scale', [30.0, 1e3, 1e6])
def test_discretized_log_prob_of_narrow_bins(scale):
  """Narrow bins have density times width, and the slope of the density."""
  x, mean, width = jnp.linspace(-1.0, 1.0, 256)[1:-1], 0.3, 2.0 / 255.0
  log_mass = jax.vmap(
    lambda m, x: jitted(dj.discretized_log_prob)(dj.Normal(m, scale**2), x), (None, 0)
  )
  found = log_mass(mean, x)
  expected = scipy.stats.norm.logpdf(x, mean, scale) + np.log(width)
  assert_allclose(found, expected, rtol=1e-5)
  slope = jax.vmap(jax.grad(lambda m, x: log_mass(m, x[None])[0]), (None, 0))
  expected = (np.asarray(x, np.float64) - mean) / scale**2
  assert_allclose(slope(mean, x) * scale**2, expected * scale**2, atol=1e-3)

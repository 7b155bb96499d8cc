"""Decoders of x given z are normalised, agree with SciPy, and stay finite far from the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.schedules import anything
from tests.transcribed import transcribes

LEVELS = (2, 17, 256)
log_prob = jax.jit(dj.discretized_logistic_log_prob, static_argnums=3)


@jax.jit
def value_and_slopes(mean, log_scale, x):
  total = lambda m, s: jnp.sum(dj.discretized_logistic_log_prob(m, s, x))
  value = dj.discretized_logistic_log_prob(mean, log_scale, x)
  return value, *jax.grad(total, (0, 1))(mean, log_scale)


def literal(mean, log_scale, x, num_levels):
  """Computes PixelCNN++ Eq. 2, a difference of cdfs, in float64."""
  half = 1.0 / (num_levels - 1)
  cdf = lambda v: scipy.stats.logistic.cdf((v - mean) / np.exp(log_scale))
  upper = np.where(x > 1.0 - half, 1.0, cdf(x + half))
  lower = np.where(x < half - 1.0, 0.0, cdf(x - half))
  return np.log(upper - lower)


@transcribes(
  'PixelCNN++ (Salimans et al. 2017)',
  '2: discretised logistic',
  '`discretized_logistic_log_prob`',
)
@pytest.mark.parametrize('num_levels', LEVELS)
def test_the_logistic_is_a_difference_of_cdfs(num_levels):
  """In this test float64 resolves the difference to 1e-8, and float32 x to 6e-8."""
  x = np.linspace(-1.0, 1.0, num_levels)
  for mean in (-1.3, 0.02, 0.9):
    for log_scale in (1.5, -1.0, -2.0):
      mean32 = jnp.full(x.shape, mean, jnp.float32)
      found = log_prob(mean32, log_scale, x.astype(np.float32), num_levels)
      expected = literal(mean, log_scale, x, num_levels)
      assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def of_normal(mean, log_scale, x, num_levels, cdf):
  p = dj.Normal(mean, jnp.exp(2.0 * log_scale))
  return dj.discretized_log_prob(p, x, num_levels, cdf)


DECODERS = {
  'normal': functools.partial(of_normal, cdf='exact'),
  'tanh': functools.partial(of_normal, cdf='tanh'),
  'logistic': lambda mean, *rest: dj.discretized_logistic_log_prob(
    jnp.full(rest[1].shape, mean), *rest
  ),
  'truncated': lambda mean, log_scale, x, num_levels: jax.nn.log_softmax(
    dj.logistic_logits(mean, log_scale, num_levels)
  ),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def masses(name, num_levels, mean, log_scale):
  x = jnp.linspace(-1.0, 1.0, num_levels)
  return jnp.exp(DECODERS[name](mean, log_scale, x, num_levels))


@pytest.mark.parametrize('name', DECODERS)
@anything
@given(st.sampled_from(LEVELS), st.floats(-1.5, 1.5), st.floats(-9.0, 20.0))
def test_masses_are_a_distribution(name, num_levels, mean, log_scale):
  """Masses of bins add up to 1 and are symmetric, a point or flat in the limits."""
  x, scale = np.linspace(-1.0, 1.0, num_levels), np.exp(log_scale)
  atol = 1e-4 + 3e-7 / scale  # float32 resolves x - mean to 1e-7.
  mass = np.asarray(masses(name, num_levels, mean, log_scale), np.float64)
  assert (mass >= 0.0).all()
  assert_allclose(mass.sum(), 1.0, atol=atol)
  mirrored = masses(name, num_levels, -mean, log_scale)
  assert_allclose(mass[::-1], mirrored, atol=atol)
  nearest = np.abs(x - mean).argmin()
  to_edge = 1 / (num_levels - 1) - np.abs(x[nearest] - mean)
  if to_edge > 20.0 * scale:
    assert_allclose(mass, np.eye(num_levels)[nearest], atol=atol)
  elif scale > 1e4:
    flat = np.full(num_levels, 1 / num_levels)
    if name != 'truncated':  # The outer bins reach to infinity.
      flat = 0.5 * (np.arange(num_levels) % (num_levels - 1) == 0)
    assert_allclose(mass, flat, atol=1e-3)


def test_the_logistic_far_away_is_an_exponential():
  """cdf(z) -> exp(z): the upper edge, and log(1 - exp(-width / scale))."""
  scale, half = np.exp(-7.0), 1 / 255
  x = np.float32(np.linspace(-1.0, 1.0, 256)[[50, 100, 0]])
  found = log_prob(jnp.ones(3), -7.0, x, 256)
  expected = (np.float64(x) + half - 1.0) / scale
  expected[:2] += np.log(-np.expm1(-2 * half / scale))
  assert_allclose(found, expected, rtol=1e-6)


def test_the_logistic_is_finite_with_its_gradients():
  log_scales = [-1e4, -100.0, -30.0, -29.0, -7.0, 0.0, 29.0, 88.0, 100.0, 1e4]
  points = np.meshgrid(
    np.array([-1e6, -3.0, -1.0, 0.2, 1.0, 1e6], np.float32),
    np.array(log_scales, np.float32),
    np.linspace(-1.0, 1.0, 256, dtype=np.float32)[[0, 1, 127, 255]],
  )
  for array in value_and_slopes(*points):
    assert np.isfinite(array).all()


def test_the_slopes_of_a_logistic_of_extreme_scale():
  """A flat logistic has mass ~ 1 / scale; a point has slope 1 / scale."""
  x = np.linspace(-1.0, 1.0, 256, dtype=np.float32)[[100]]
  value, _, slope = value_and_slopes(jnp.zeros(1), jnp.array([20.0]), x)
  # The density in the middle is 1 / (4 scale).
  assert_allclose(value, np.log(2 / 255 / 4) - 20.0, rtol=1e-6)
  assert_allclose(slope, -1.0, rtol=1e-6)
  _, slope, _ = value_and_slopes(jnp.ones(1), jnp.array([-20.0]), x)
  assert_allclose(slope, -np.exp(20.0), rtol=1e-5)


def test_rounding_of_x_does_not_matter_at_the_outer_bins():
  x = jnp.array([-1.0, -1.0 + 1e-5, 1.0 - 1e-5, 1.0])
  nats = log_prob(jnp.full(4, 0.5), -1.0, x, 17)
  assert_allclose(nats[1:3], nats[::3], atol=1e-4)


@transcribes(
  'VAE (Kingma & Welling 2014)',
  'appendix C.1: Bernoulli decoder, grey levels −1 and 1',
  '`bernoulli_log_prob`',
)
def test_the_bernoulli_is_scipys():
  logits = np.array([-40.0, -3.0, 0.0, 0.7, 40.0], np.float32)
  p = scipy.special.expit(np.float64(logits))
  bernoulli = jax.jit(dj.bernoulli_log_prob)
  for x, expected in (
    (1.0, scipy.special.log_expit(np.float64(logits))),
    (-1.0, scipy.special.log_expit(-np.float64(logits))),
  ):
    found = bernoulli(logits, np.full(5, x, np.float32))
    assert_allclose(found, expected, rtol=1e-6)
    mass = scipy.stats.bernoulli.pmf((x + 1) / 2, p)
    assert_allclose(np.exp(found), mass, rtol=1e-6, atol=1e-15)
  slope = jax.jit(jax.grad(dj.bernoulli_log_prob))  # x - p, with x in {0, 1}
  assert_allclose(slope(0.7, 1.0), 1 - p[3], rtol=1e-6)
  assert_allclose(slope(-1e30, 1.0), 1.0)
  assert_allclose(slope(0.7, -1.0), -p[3], rtol=1e-6)

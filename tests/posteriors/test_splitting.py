"""Samplers that take turns between the measurement and the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core import operators
from diffusion_jax.sampling.grids import last_noisy_level
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at, level_grid
from tests.posteriors.test_reconstruction import (
  MATRIX,
  SCHEDULE,
  WHITE,
  Y,
  measured,
)
from tests.rows import normal
from tests.sampling.moments import assert_own_keys, jit_long
from tests.transcribed import transcribes

NUM = 4000
# Correlated data, whose widths the levels reach.
COV = np.diag([0.5, 1.0, 1.5, 1.0]) + 0.3
PRIOR = oracles.gaussian(np.array([0.3, -0.2, 0.1, 0.0]), COV)


def check_moments(x, exact, mean_error=0.06, cov_error=0.1):
  x = np.asarray(x, np.float64)
  cov = np.asarray(exact.cov, np.float64)
  error = np.linalg.norm(x.mean(axis=0) - exact.mean)
  assert error / np.sqrt(np.trace(cov)) < mean_error
  assert np.linalg.norm(np.cov(x.T) - cov) / np.linalg.norm(cov) < cov_error


def draws(name, std):
  m = measured(std)
  if name == 'gaussian':
    return dj.gaussian_draw(m, num_iterations=2)
  return dj.langevin_draw(m.log_prob, step_size=0.25 * std**2, num_steps=200)


@transcribes('DAPS (Zhang et al. 2025)', 'Alg. 1')
@pytest.mark.parametrize('name, std', [('gaussian', 0.01), ('gaussian', 0.5), ('langevin', 0.5)])
def test_inner_draws_are_the_product_of_two_normal_distributions(name, std, key):
  mean = np.array([0.2, -1.0, 0.4, 0.0])
  exact = oracles.gaussian(mean, 0.6 * np.eye(4)).posterior(MATRIX, Y, std)
  means = np.tile(np.float32(mean), (NUM, 1))
  draw = jax.jit(draws(name, std))
  check_moments(draw(key, means, np.float32(0.6)), exact)


def test_langevin_draws_have_the_law_for_any_size_of_step(key):
  """Acceptance corrects a step as large as the target's variance."""
  draw = dj.langevin_draw(lambda x: -0.5 * jnp.sum(x**2, axis=1), 0.25, 50)
  x = np.asarray(jax.jit(draw)(key, np.zeros((4 * NUM, 1), np.float32), np.float32(1.0)))
  assert_allclose(np.var(x), 0.5, atol=0.025)


def test_langevin_draws_refuse_nan(key):
  def log_likelihood(x0):
    return jnp.sum(jnp.log(x0), axis=1)  # NaN below 0

  draw = dj.langevin_draw(log_likelihood, 0.2, 50)
  x = jax.jit(draw)(key, np.ones((100, 2), np.float32), np.float32(1.0))
  assert (np.asarray(x) > 0.0).all()


@transcribes('DAPS (Zhang et al. 2025)', 'Alg. 1', '`decoupled`, `gaussian_draw`, `langevin_draw`')
def test_decoupled_noise_is_exact_for_white_data(key):
  """x_0 given x_t is N(x_0_hat, r^2 I) there, and the inner draw is exact."""
  levels = level_grid(SCHEDULE, 12, 'karras')
  sampler = dj.decoupled(draws('gaussian', 0.5))

  @jax.jit
  def run(key):
    x = dj.prior_sample(key, (NUM, 4), levels.take(0))
    return dj.sample(key, WHITE.denoise, sampler, levels, x)

  check_moments(run(key), WHITE.posterior(MATRIX, Y, 0.5))


def test_the_paper_assumes_another_variance(key):
  """White data are over-dispersed by sigma^2 / alpha^2 and the ODE's end."""
  levels = level_grid(SCHEDULE, 12, 'karras')
  estimate = dj.ode_estimate(SCHEDULE, 5)
  unknown = dj.gaussian_draw(measured(1e3), num_iterations=2)
  sampler = dj.decoupled(unknown, lambda level: 1.0 / level.snr, estimate)
  level = jax.device_get(levels).take(6)
  x = normal(NUM, 4)
  run = jax.jit(
    lambda x: sampler.step(
      key,
      x,
      (),
      WHITE.denoise,
      level_t=level,
      level_s=dj.NoiseLevel(*np.array([0.0, 1.0, 0.0], np.float32)),
    )[0]
  )
  # The ODE keeps a white x, to the error of five steps, and adds sigma^2 /
  # alpha^2.
  expected = 1.0 + float(1.0 / level.snr)
  assert_allclose(np.var(np.asarray(run(x))), expected, rtol=0.06)


def test_the_end_of_the_ode():
  x = normal(5, 4)
  level = level_at(SCHEDULE, 0.4)
  estimate = dj.ode_estimate(SCHEDULE, 200)
  found = jax.jit(lambda x: estimate(PRIOR.denoise, x, level))(x)
  expected = jitted(PRIOR.ode_map)(x, level, dj.clean_level())
  assert_allclose(found, expected, atol=0.02)


@jit_long
def gibbs_draws(keys, x, widths):
  draw = dj.gaussian_draw(measured(0.5), num_iterations=2)
  return dj.split_gibbs(keys, PRIOR.denoise, SCHEDULE, draw, widths, x, num_steps=50)


@transcribes(
  'PnP-DM (Wu et al. 2024); DPnP (Xu & Chi 2024)',
  'Alg. 1: split Gibbs',
  '`split_gibbs`',
)
@pytest.mark.parametrize('width', [0.2, 0.6])
def test_split_gibbs_has_the_noise_of_its_width(width, key):
  """Split Gibbs draws the posterior of y with variance std^2 I + width^2 A A^T."""
  cov = 0.5**2 * np.eye(2) + width**2 * MATRIX @ MATRIX.T
  whitening = np.linalg.inv(np.linalg.cholesky(cov))
  exact = PRIOR.posterior(whitening @ MATRIX, whitening @ Y, 1.0)
  widths = np.float32([*np.geomspace(2.0, width, 6), *[width] * 14])
  x = gibbs_draws(jax.random.split(key, NUM), normal(NUM, 4), widths)
  # 50 steps of each draw give 6 to 9 % less than the variance.
  check_moments(x, exact, mean_error=0.05, cov_error=0.12)


def test_split_gibbs_at_the_lowest_levels_is_finite(key):
  """At the lowest levels a grid has equal levels, or equal but for rounding."""
  betas = dj.scaled_linear_betas(1000)
  draw = dj.gaussian_draw(measured(0.0), num_iterations=2)
  x = normal(5, 4)

  @jax.jit
  def run(schedule, widths):
    return dj.split_gibbs(key, PRIOR.denoise, schedule, draw, widths, x)

  for schedule in (dj.DiscreteSchedule.from_betas(betas), SCHEDULE):
    end = jax.device_get(jitted(last_noisy_level)(schedule))
    for ratio in (0.9995, 1.0, 1.0001, 1.01):
      widths = np.float32([1.0, ratio * end.sigma / end.alpha])
      assert np.isfinite(run(schedule, widths)).all(), ratio


def test_images_depend_on_their_keys_only(key):
  levels = level_grid(SCHEDULE, 4, 'karras')
  sampler = dj.decoupled(draws('langevin', 0.5))
  daps = jax.jit(lambda keys, x: dj.sample(keys, WHITE.denoise, sampler, levels, x))
  gibbs = functools.partial(gibbs_draws, widths=np.geomspace(2.0, 0.5, 20, dtype=np.float32))
  for method, n in ((gibbs, NUM), (daps, 6)):
    assert_own_keys(method, jax.random.split(key, n), normal(n, 4), rtol=1e-4, atol=1e-4)


blur = jax.jit(lambda x: operators.gaussian_blur(1.5)(x))


@jax.jit
def drawn_given_a_blur(key, x, variance):
  measurement = dj.Measurement(jnp.zeros((1, 16, 16, 1)), blur, 1.0 / 127.5)
  return dj.gaussian_draw(measurement)(key, x, variance)


@pytest.mark.parametrize('variance', [0.5, 9.0])
def test_draws_given_a_blur_have_the_spread_of_every_frequency(variance, key):
  """Draws are whitened in Fourier's basis, where the posterior is diagonal."""
  std, dot = 1.0 / 127.5, np.zeros((1, 16, 16, 1), np.float32)
  dot[0, 0, 0, 0] = 1.0
  response = np.fft.fft2(np.asarray(blur(dot), np.float64)[0, :, :, 0])
  x = drawn_given_a_blur(key, np.zeros((64, 16, 16, 1), np.float32), np.float32(variance))
  precision = np.abs(response) ** 2 / std**2 + 1.0 / variance
  spectrum = np.fft.fft2(np.asarray(x, np.float64)[..., 0], norm='ortho')
  whitened = np.mean(np.abs(spectrum) ** 2 * precision, axis=0)
  assert_allclose(whitened.mean(), 1.0, atol=0.03)
  assert whitened.max() < 2.2

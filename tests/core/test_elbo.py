"""The terms of the variational bound agree with float64 sums and with their expectations."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core import elbo
from tests.jitted import at_step, jitted, level_at
from tests.transcribed import transcribes


@transcribes('VDM (Kingma et al. 2021)', 'decoder', '`core.elbo.categorical_nll`')
@pytest.mark.parametrize('num_levels', [2, 17, 256])
def test_the_categorical_decoder_literally(num_levels):
  """The categorical decoder is Bayes' rule over the grey levels, in float64 pixel by pixel."""
  rng = np.random.default_rng(0)
  values = np.linspace(-1.0, 1.0, num_levels)
  x0 = rng.choice(values, (2, 3, 4))
  alpha, sigma = np.array([0.9, 0.6]), np.array([0.1, 0.8])
  z0 = alpha[:, None, None] * x0 + sigma[:, None, None] * rng.normal(size=x0.shape)
  expected = np.zeros(2)
  for (b, i, j), x in np.ndenumerate(x0):
    q = np.exp(-0.5 * ((z0[b, i, j] - alpha[b] * values) / sigma[b]) ** 2)
    expected[b] -= np.log(q[np.argmin(np.abs(values - x))] / q.sum())
  arrays = (np.asarray(v, np.float32) for v in (x0, z0, alpha, sigma))
  x0, z0, alpha, sigma = arrays
  level = dj.NoiseLevel(alpha, alpha, sigma)
  nll = jax.jit(elbo.categorical_nll, static_argnums=3)
  found = nll(x0, z0, level, num_levels)
  assert_allclose(found, expected, rtol=2e-5)


SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))


def test_prior_kl_in_float64():
  """The prior's KL is 0.5 sum(alpha_bar x^2 - alpha_bar - log(1 - alpha_bar))."""
  x0 = np.random.default_rng(0).uniform(-1.0, 1.0, (3, 4))
  for step, rtol in ((1000, 1e-4), (500, 1e-5), (10, 1e-5)):
    alpha_bar = np.prod(1.0 - dj.linear_betas(1000)[:step])
    each = alpha_bar * x0**2 - alpha_bar - np.log1p(-alpha_bar)
    found = jitted(dj.prior_kl)(np.float32(x0), at_step(SCHEDULE, step))
    assert_allclose(found, 0.5 * each.sum(axis=1), rtol=rtol)


def test_levels_that_are_equal_lose_nothing(key):
  """alpha_3 is 1 - 1e-9: its term and its loss in eps are 0, not 0 / 0."""
  schedule = dj.DiscreteSchedule.from_alphas([0.9, 0.5, 1.0 - 1e-9])
  denoise = lambda x, level: dj.Prediction(0.5 * x)
  x0 = jnp.ones((2, 3))

  @jax.jit
  def run(x0):
    level_s, level_t = schedule.at_step(2), schedule.at_step(3)
    loss = lambda variance: dj.weighted_eps_loss(x0, 2.0 * x0, level_s, level_t, variance)
    losses = loss('fixed_small'), loss('fixed_large')
    bound = dj.variational_bound(key, denoise, schedule, x0, num_steps=3, variance='fixed_small')
    return bound, losses

  terms, losses = run(x0)
  assert np.isfinite(terms['total']).all()
  assert_array_equal(terms['diffusion'][:, 2], 0.0)
  assert_array_equal(losses, np.zeros((2, 2)))


def test_prior_kl_of_a_schedule_that_explodes_the_variance():
  """The prior is N(0, alpha^2 + sigma^2), the start of sampling."""
  level = dj.NoiseLevel(*map(jnp.asarray, (1.0, 1.0, 5.0)))
  u = 25.0 / 26.0
  expected = 0.5 * 2 * (u - 1.0 - np.log(u) + 0.25 / 26.0)
  found = jitted(dj.prior_kl)(np.full((1, 2), 0.5), level)
  assert_allclose(found, [expected], rtol=1e-5)


def test_a_step_to_noise_at_time_0_is_a_transition():
  """Examples at sigma = 0 get L_0, the others L_{t-1}."""
  x0, xt = np.random.default_rng(0).choice([-1.0, 1.0], (2, 2, 3))

  @jax.jit
  def run(x0, xt, sigma):
    model = dj.Normal(0.1 * xt, 0.3)
    level_t = level_at(SCHEDULE, 0.5)
    level_s = dj.NoiseLevel(0.0 * sigma, jnp.sqrt(1.0 - sigma**2), sigma)
    found = elbo.bound_term(x0, xt, model, level_s, level_t)
    noisy = level_s.take(1)
    kl = elbo.diffusion_kl(x0, xt, model, noisy, level_t)
    return found, elbo.reconstruction_nll(x0, model), kl

  found, decoded, kl = run(x0, xt, np.array([0.0, 0.4]))
  assert_allclose(found, [decoded[0], kl[1]], rtol=1e-5)


def test_squared_errors_are_those_of_the_levels_of_their_steps(key):
  """If x_0 = 0 and the denoiser returns t, entry i is t^2 at t = (i+1) / T."""

  def denoise(x, level):
    return dj.Prediction(jnp.broadcast_to(level.expand_to(x).t, x.shape))

  schedule = dj.CosineSchedule(-2.0, 3.0)
  bound = jax.jit(lambda x0: dj.variational_bound(key, denoise, schedule, x0, num_steps=4))(
    np.zeros((2, 3), np.float32)
  )
  t = np.arange(1, 5) / 4
  expected = np.broadcast_to(3 * t**2, (2, 4))
  assert_allclose(bound['squared_error'], expected, rtol=1e-5)


@pytest.mark.parametrize('steps', [1, 4, 39])
def test_each_step_is_drawn_as_often_as_expected(steps):
  """The uniform number of the draw takes all values of a fine grid."""
  levels = level_at(SCHEDULE, np.arange(1, 41) / 40)
  snr = (np.asarray(levels.alpha, float) / np.asarray(levels.sigma)) ** 2
  terms = (snr[:-1] - snr[1:]) / (1 + snr[1:])
  share = 0.9 * terms / terms.sum() + 0.1 / 39
  grid = (np.arange(2000, dtype=np.float32) + 0.5) / 2000
  with mock.patch.object(jax.random, 'uniform', lambda u: u):
    draw = jax.jit(elbo.draw_steps, static_argnums=2)
    drawn, expected = map(np.asarray, draw(grid, levels, steps))
  assert_allclose(expected, steps * share, rtol=1e-4)
  assert drawn.shape == (steps, 2000) and (np.diff(drawn, axis=0) >= 0).all()
  often = np.bincount(drawn.ravel(), minlength=41)[2:] / 2000
  assert_allclose(often, steps * share, atol=1.1e-3)

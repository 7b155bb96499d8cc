"""Samplers on data whose every moment is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import oracles

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
SCHEDULES = {
  'linear': DDPM,
  'cosine': dj.DiscreteSchedule.from_betas(dj.cosine_betas(1000)),
  'continuous_cosine': dj.CosineSchedule(-12.0, 12.0),
  'linear_vp': dj.LinearVPSchedule(),
}
GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])
MIXTURE = oracles.mixture(
  [0.3, 0.7],
  [[-1.0, 0.5], [1.0, 0.0]],
  [[[0.05, 0.0], [0.0, 0.05]], [[0.1, 0.05], [0.05, 0.2]]],
)
ORACLES = {'gaussian': GAUSSIAN, 'mixture': MIXTURE}
SAMPLERS = {
  'ancestral_small': dj.ancestral('fixed_small'),
  'ancestral_large': dj.ancestral('fixed_large'),
  'ddim_0': dj.ddim(0.0),
  'ddim_half': dj.ddim(0.5),
  'ddim_1': dj.ddim(1.0),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def sample(oracle_name, sampler_name, key, levels, n):
  """Levels are an argument, so that schedules share a compilation."""
  prior_key, key = jax.random.split(key)
  x = dj.prior_sample(prior_key, (n, 2), levels.take(0))
  denoise = ORACLES[oracle_name].denoise
  return dj.sample(key, denoise, SAMPLERS[sampler_name], levels, x)


def run(key, oracle_name, sampler_name, schedule, num_steps, n):
  levels = dj.level_grid(schedule, num_steps)
  return np.asarray(sample(oracle_name, sampler_name, key, levels, n))


def check_moments(x, oracle, bias):
  """Mean and covariance within 5 Monte-Carlo errors and a step-size bias."""
  n = len(x)
  cov = np.asarray(oracle.cov)
  mean_error = 5 * np.sqrt(np.diag(cov) / n)
  assert (np.abs(x.mean(0) - oracle.mean) < mean_error + bias).all()
  square = np.outer(np.diag(cov), np.diag(cov)) + cov**2
  # fourth moments: Gaussian to a factor that covers the mixtures here
  cov_error = 5 * np.sqrt(1.5 * square / n)
  assert (np.abs(np.cov(x.T) - cov) < cov_error + bias).all()


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('name', SCHEDULES)
def test_mean_and_covariance_of_correlated_gaussian_data(sampler, name, key):
  x = run(key, 'gaussian', sampler, SCHEDULES[name], 400, 10_000)
  check_moments(x, GAUSSIAN, bias=0.015)


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_mean_and_covariance_of_a_mixture(sampler, key):
  x = run(key, 'mixture', sampler, DDPM, 400, 10_000)
  check_moments(x, MIXTURE, bias=0.015)
  # and its shape: the share of points on the side of the lighter component
  share = np.mean(x[:, 0] < -0.2)
  expected = np.mean(np.asarray(MIXTURE.sample(key, 100_000))[:, 0] < -0.2)
  assert abs(share - expected) < 5 * (0.3 * 0.7 / 10_000) ** 0.5 + 0.01


@pytest.mark.parametrize('name', SCHEDULES)
def test_ddim_map_has_the_exact_covariance_without_monte_carlo(name):
  """On Gaussian data eta = 0 is affine: x_0 = A x_T + b, so Cov = A A^T."""
  levels = dj.level_grid(SCHEDULES[name], 1000)
  sampler = dj.ddim(0.0)
  go = jax.jit(
    lambda x: dj.sample(jax.random.key(0), GAUSSIAN.denoise, sampler, levels, x)
  )
  b, *columns = go(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
  a = np.stack(columns, axis=1) - np.asarray(b)[:, None]
  np.testing.assert_allclose(b, GAUSSIAN.mean, atol=0.01)
  np.testing.assert_allclose(a @ a.T, GAUSSIAN.cov, rtol=0.01)


@pytest.mark.parametrize('num_steps', [3, 50, 1000])
@pytest.mark.parametrize('name', SCHEDULES)
def test_ddim_1_is_ancestral_fixed_small(name, num_steps, key):
  schedule = SCHEDULES[name]
  a = run(key, 'gaussian', 'ddim_1', schedule, num_steps, 256)
  b = run(key, 'gaussian', 'ancestral_small', schedule, num_steps, 256)
  np.testing.assert_allclose(a, b, atol=5e-6 * np.abs(b).max())


def test_learned_variance_lies_between_the_fixed_ones(key):
  def denoise(fraction):
    def predict(x, level):
      prediction = GAUSSIAN.denoise(x, level)
      return prediction._replace(var_frac=jnp.full_like(x, fraction))

    return predict

  levels = dj.level_grid(DDPM, 20)
  x = dj.prior_sample(key, (64, 2), levels.take(0))

  def samples(denoise, variance):
    return dj.sample(key, denoise, dj.ancestral(variance), levels, x)

  for fraction, variance in [(0.0, 'fixed_small'), (1.0, 'fixed_large')]:
    found = samples(denoise(fraction), 'learned')
    expected = samples(GAUSSIAN.denoise, variance)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_zero_terminal_snr_is_sampled_from_alpha_zero(key):
  betas = dj.zero_terminal_snr(dj.linear_betas(1000))
  schedule = dj.DiscreteSchedule.from_betas(betas)
  x = run(key, 'gaussian', 'ddim_0', schedule, 400, 10_000)
  check_moments(x, GAUSSIAN, bias=0.015)


def test_one_step_gives_the_denoised_prior(key):
  levels = dj.level_grid(DDPM, 1)
  x = dj.prior_sample(key, (4, 2), levels.take(0))
  expected = GAUSSIAN.denoise(x, levels.take(0)).x0
  for sampler in SAMPLERS.values():
    found = dj.sample(key, GAUSSIAN.denoise, sampler, levels, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('eta', [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(eta):
  with pytest.raises(ValueError, match=f'eta is {eta}'):
    dj.ddim(eta)

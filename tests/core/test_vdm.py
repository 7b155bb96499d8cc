"""The equations of Kingma et al. 2021 in their notation, NumPy float64.

gamma(t) = -log SNR(t), alpha_t^2 = sigmoid(-gamma), sigma_t^2 = sigmoid(gamma).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit as sigmoid

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at
from tests.papers.paper import f32
from tests.transcribed import transcribes

LOW, HIGH, BEND = -13.3, 5.0, 4.0


def gamma(t):
  """Returns a bent curve from LOW to HIGH."""
  return LOW + (HIGH - LOW - BEND) * t + BEND * t**3


def gamma_slope(t):
  return HIGH - LOW - BEND + 3.0 * BEND * t**2


def gamma_fn(params, t):
  return params['low'] + params['span'] * t + BEND * t**3


VDM = dj.LearnedSchedule({'low': LOW, 'span': HIGH - LOW - BEND}, gamma_fn)


def snr(t):
  return np.exp(-gamma(t))


@functools.partial(jax.jit, static_argnames='num_steps')
def diffusion_loss(x0, x0_hat, schedule, t, num_steps=None):
  return dj.vdm_diffusion_loss(x0, x0_hat, schedule, t, num_steps)


@functools.partial(jax.jit, static_argnames='num_steps')
def eps_loss(eps, eps_hat, schedule, t, num_steps=None):
  weight = dj.vdm_weight(schedule, num_steps)
  x0 = jnp.zeros_like(eps)
  level = schedule(t)
  return jitted(dj.denoising_loss)('eps', eps_hat, x0, eps, level, weight)


def errors(t, seed=0):
  """Returns x, x_hat, eps, eps_hat at t; eps_hat - eps is of order one."""
  rng = np.random.default_rng(seed)
  x, eps, error = rng.normal(size=(3, len(t), 4, 3))
  to_x = np.sqrt(sigmoid(gamma(t)) / sigmoid(-gamma(t)))[:, None, None]
  return x, x - to_x * error, eps, eps + error


def squares(a, b):
  return np.sum((a - b) ** 2, axis=(1, 2))


@transcribes(
  'VDM (Kingma et al. 2021)',
  '13, 14: diffusion loss of T steps',
  '`vdm_diffusion_loss`, `vdm_weight` with num_steps',
)
@pytest.mark.parametrize('T', [1, 3, 1000])
def test_eq_13_and_14_finite_diffusion_loss(T):
  t = np.array([1, (T + 1) // 2, T]) / T
  s = t - 1.0 / T
  x, x_hat, eps, eps_hat = errors(t)
  expected = T / 2.0 * (snr(s) - snr(t)) * squares(x, x_hat)
  eq_14 = T / 2.0 * np.expm1(gamma(t) - gamma(s)) * squares(eps, eps_hat)
  assert_allclose(expected, eq_14)
  # float32 resolves gamma to 1e-6; a step of 1000 changes it by 0.014.
  rtol = 3e-4 if T == 1000 else 1e-5
  found = eps_loss(*f32(eps, eps_hat), VDM, *f32(t), T)
  assert_allclose(found, expected, rtol=rtol)
  # Near t = 0 x - x_hat is 1e-3 of x.
  found = diffusion_loss(*f32(x, x_hat), VDM, *f32(t), T)
  assert_allclose(found, expected, rtol=rtol + 1e-4)


@transcribes(
  'VDM (Kingma et al. 2021)',
  '15, 17: in continuous time',
  '`vdm_diffusion_loss`, `vdm_weight`',
)
def test_eq_15_and_17_continuous_diffusion_loss():
  t = np.linspace(0.0, 1.0, 7)
  x, x_hat, eps, eps_hat = errors(t)
  snr_slope = -gamma_slope(t) * snr(t)
  expected = -0.5 * snr_slope * squares(x, x_hat)
  eq_17 = 0.5 * gamma_slope(t) * squares(eps, eps_hat)
  assert_allclose(expected, eq_17)
  found = eps_loss(*f32(eps, eps_hat), VDM, *f32(t))
  assert_allclose(found, expected, rtol=1e-5)
  found = diffusion_loss(*f32(x, x_hat), VDM, *f32(t))
  assert_allclose(found, expected, rtol=2e-4)


@transcribes(
  'VDM (Kingma et al. 2021)',
  'appendix A: posterior in sigmoid and expm1',
  '`q_posterior`',
)
def test_the_posterior_in_sigmoids_and_expm1():
  """A.2 has a = sigmoid(-gamma_s), c = -expm1(gamma_s - gamma_t)."""
  s, t = np.array([0.0, 0.3, 0.6]), np.array([0.01, 0.31, 1.0])
  rng = np.random.default_rng(0)
  x, eps = rng.normal(size=(2, 3, 5))
  g_s, g_t = gamma(s)[:, None], gamma(t)[:, None]
  sigma_t = np.sqrt(sigmoid(g_t))
  z = np.sqrt(sigmoid(-g_t)) * x + sigma_t * eps
  c = -np.expm1(g_s - g_t)
  mean = np.sqrt(sigmoid(-g_s) / sigmoid(-g_t)) * (z - sigma_t * c * eps)
  variance = (1.0 - sigmoid(-g_s)) * c
  levels = [level_at(VDM, np.float32(a)) for a in (s, t)]
  found = jitted(dj.q_posterior)(*f32(x, z), *levels)
  assert_allclose(found.mean, mean, atol=3e-6)
  assert_allclose(found.variance, variance, rtol=2e-4)


# For Gaussian data and the exact denoiser everything is known.

EIGENVALUES = np.array([1.5, 0.3, 0.02])
MEAN = np.array([0.5, -0.2, 0.1])
ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
DATA = oracles.gaussian(MEAN, ROTATION @ np.diag(EIGENVALUES) @ ROTATION.T)
MILD = dj.LearnedSchedule({'low': -7.0, 'span': 8.0}, gamma_fn)


def mild_snr(t):
  return np.exp(7.0 - 8.0 * t - BEND * t**3)


@functools.partial(jax.jit, static_argnums=1)
def losses(key, num_steps, n=60_000):
  data_key, eps_key = jax.random.split(key)
  x0 = DATA.sample(data_key, n)
  eps = jax.random.normal(eps_key, x0.shape)
  t = (jnp.arange(n) + 0.5) / n
  if num_steps:
    t = jnp.ceil(t * num_steps) / num_steps
  level = MILD(t)
  xt = jitted(dj.q_sample)(x0, eps, level)
  return diffusion_loss(x0, DATA.denoise(xt, level).x0, MILD, t, num_steps)


@transcribes(
  'VDM (Kingma et al. 2021)',
  'the same for the exact denoiser of Gaussian data',
  '`vdm_diffusion_loss`',
)
@pytest.mark.parametrize('T', [None, 2, 10])
def test_the_exact_denoiser_has_the_closed_form_loss(T, key):
  """E|x - x_hat|^2 = sum v / (1 + v SNR), and its integral over SNR."""
  loss = np.asarray(losses(key, T), np.float64)
  error = 4.5 * np.std(loss) / np.sqrt(len(loss))
  if T is None:
    ends = [1.0 + EIGENVALUES * mild_snr(t) for t in (0.0, 1.0)]
    expected = 0.5 * np.sum(np.log(ends[0] / ends[1]))
  else:
    t = np.arange(1, T + 1) / T
    variance = EIGENVALUES / (1.0 + EIGENVALUES * mild_snr(t)[:, None])
    lost = mild_snr(t - 1.0 / T) - mild_snr(t)
    expected = 0.5 * np.sum(lost * variance.sum(axis=1))
  assert abs(loss.mean() - expected) < error < 0.05 * expected

"""The equations of Kingma et al. 2021 in their notation, NumPy float64.

gamma(t) = -log SNR(t), alpha_t^2 = sigmoid(-gamma), sigma_t^2 = sigmoid(gamma).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit as sigmoid

import diffusion_jax as dj
from tests.jitted import jitted, level_at
from tests.papers.paper import f32

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


@pytest.mark.parametrize('T', [1, 3, 1000])
def test_eq_13_and_14_finite_diffusion_loss(T):
  t = np.array([1, (T + 1) // 2, T]) / T
  s = t - 1.0 / T
  x, x_hat, eps, eps_hat = errors(t)
  expected = T / 2.0 * (snr(s) - snr(t)) * squares(x, x_hat)
  eq_14 = T / 2.0 * np.expm1(gamma(t) - gamma(s)) * squares(eps, eps_hat)
  np.testing.assert_allclose(expected, eq_14)
  # float32 resolves gamma to 1e-6; a step of 1000 changes it by 0.014.
  rtol = 3e-4 if T == 1000 else 1e-5
  found = eps_loss(*f32(eps, eps_hat), VDM, *f32(t), T)
  np.testing.assert_allclose(found, expected, rtol=rtol)
  # Near t = 0 x - x_hat is 1e-3 of x.
  found = diffusion_loss(*f32(x, x_hat), VDM, *f32(t), T)
  np.testing.assert_allclose(found, expected, rtol=rtol + 1e-4)


def test_eq_15_and_17_continuous_diffusion_loss():
  t = np.linspace(0.0, 1.0, 7)
  x, x_hat, eps, eps_hat = errors(t)
  snr_slope = -gamma_slope(t) * snr(t)
  expected = -0.5 * snr_slope * squares(x, x_hat)
  eq_17 = 0.5 * gamma_slope(t) * squares(eps, eps_hat)
  np.testing.assert_allclose(expected, eq_17)
  found = eps_loss(*f32(eps, eps_hat), VDM, *f32(t))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  found = diffusion_loss(*f32(x, x_hat), VDM, *f32(t))
  np.testing.assert_allclose(found, expected, rtol=2e-4)


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
  np.testing.assert_allclose(found.mean, mean, atol=3e-6)
  np.testing.assert_allclose(found.variance, variance, rtol=2e-4)

"""Classifier guidance as in Dhariwal & Nichol 2021, in NumPy float64.

The exact eps and the exact classifier of two Gaussian classes are known.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.testing import oracles
from tests.papers import paper
from tests.transcribed import transcribes

P = paper.ddpm(dj.linear_betas(1000))
WEIGHTS = np.array([0.4, 0.6])
MEANS = np.array([[-0.6, 0.4], [0.7, -0.1]])
VARIANCE = np.array([0.1, 0.25])  # of both coordinates
CLASSES = oracles.mixture(WEIGHTS, MEANS, VARIANCE[:, None, None] * np.eye(2))
Y, SCALE = 1, 2.5
STEPS = [2, 50, 400, 1000]


def joint(x, t):
  """Returns log w_k p(x_t | k), [B, 2], and its gradients, [B, 2, 2]."""
  alpha_bar = P.alpha_bar[t]
  variance = alpha_bar * VARIANCE + 1 - alpha_bar
  centred = x[:, None] - np.sqrt(alpha_bar) * MEANS
  square = np.sum(centred**2, axis=-1) / variance
  log_p = np.log(WEIGHTS) - 0.5 * square - np.log(2 * np.pi * variance)
  return log_p, -centred / variance[:, None]


def posterior(log_p):
  p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
  return p / p.sum(axis=1, keepdims=True)


def classifier_gradient(x, t):
  """Returns grad log p_phi(y | x_t)."""
  log_p, slopes = joint(x, t)
  average = np.einsum('bk,bkd->bd', posterior(log_p), slopes)
  return slopes[:, Y] - average


def eps_theta(x, t):
  log_p, slopes = joint(x, t)
  score = np.einsum('bk,bkd->bd', posterior(log_p), slopes)
  return -np.sqrt(1 - P.alpha_bar[t]) * score


def log_prob(x, level):
  return CLASSES.class_log_prob(x, level)[:, Y]


def at(t):
  x = np.random.default_rng(t).standard_normal((16, 2))
  (x32,) = paper.f32(x)
  return np.float64(x32), x32, P.at_step(t), P.at_step(t - 1)


def var_frac(x, xp=np):
  return 0.5 + 0.4 * xp.sin(x)


SHIFT = dj.log_prob_gradient(log_prob, SCALE)
GUIDED = dj.classifier_guided(CLASSES.denoise, log_prob, SCALE)
guided = jax.jit(GUIDED)


def with_fraction(x, level):
  return CLASSES.denoise(x, level)._replace(var_frac=var_frac(x, jnp))


STEPS_OF = {
  'algorithm 1': (lambda v: dj.ancestral(v, SHIFT), with_fraction),
  'algorithm 2': (lambda v: dj.ddim(), GUIDED),
  'ancestral algorithm 2': (dj.ancestral, GUIDED),
  'plain': (dj.ancestral, CLASSES.denoise),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(name, variance, key, x, level_s, level_t):
  make, denoise = STEPS_OF[name]
  return make(variance).step(key, x, (), denoise, level_s=level_s, level_t=level_t)[0]


@transcribes(
  'Classifier guidance (Dhariwal & Nichol 2021)',
  'Alg. 1: the mean shifted by Σ ∇ log p',
  '`ancestral(mean_shift=…)`, `log_prob_gradient`',
)
@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'learned'])
@pytest.mark.parametrize('t', STEPS)
def test_algorithm_1_shifts_the_mean_by_the_variance(t, variance, key):
  """x_{t-1} ~ N(mu + s Sigma grad log p(y | x_t), Sigma)."""
  x, x32, level_t, level_s = at(t)
  alpha_bar, previous, beta = P.alpha_bar[t], P.alpha_bar[t - 1], P.beta[t]
  small = (1 - previous) / (1 - alpha_bar) * beta
  v = var_frac(x)
  learned = np.exp(v * np.log(beta) + (1 - v) * np.log(small))
  sigma = {'fixed_small': small, 'fixed_large': beta, 'learned': learned}
  mu = x - beta / np.sqrt(1 - alpha_bar) * eps_theta(x, t)
  mu /= np.sqrt(P.alpha[t])
  mean = mu + SCALE * sigma[variance] * classifier_gradient(x, t)
  noise = np.float64(draw_normal(key, x32))
  expected = mean + np.sqrt(sigma[variance]) * noise
  found = step('algorithm 1', variance, key, x32, level_s, level_t)
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@transcribes(
  'Classifier guidance (Dhariwal & Nichol 2021)',
  'Alg. 2: ε̂ for DDIM',
  '`classifier_guided`',
)
@pytest.mark.parametrize('t', STEPS)
def test_algorithm_2_is_ddim_with_another_eps(t, key):
  x, x32, level_t, level_s = at(t)
  alpha_bar, previous = P.alpha_bar[t], P.alpha_bar[t - 1]
  eps = eps_theta(x, t)
  eps -= np.sqrt(1 - alpha_bar) * SCALE * classifier_gradient(x, t)
  x0 = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
  expected = np.sqrt(previous) * x0 + np.sqrt(1 - previous) * eps
  found = step('algorithm 2', None, key, x32, level_s, level_t)
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  scale = np.sqrt(alpha_bar)  # Errors of x_0 grow with 1 / alpha.
  found = np.asarray(guided(x32, level_t).x0)
  assert_allclose(scale * found, scale * x0, rtol=1e-4, atol=1e-4)


@transcribes(
  'Classifier-free guidance (Ho & Salimans 2022)',
  '6: (1 + w) cond − w uncond',
  '`classifier_free` with scale 1 + w',
)
def test_ho_and_salimans_eq_6():
  """Eq. 6 is (1 + w) eps(x, c) - w eps(x), where w is scale - 1."""
  x, x32, level, _ = at(300)
  w = 1.5
  _, slopes = joint(x, 300)
  eps_c = -np.sqrt(1 - P.alpha_bar[300]) * slopes[:, Y]
  expected = (1 + w) * eps_c - w * eps_theta(x, 300)
  pair = dj.paired(CLASSES.component(Y).denoise, CLASSES.denoise)
  x0 = jax.jit(dj.classifier_free(pair, 1 + w))(x32, level).x0
  found = jax.jit(dj.eps_from_x0)(x0, x32, level)
  assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

"""The variational bound of Ho et al. 2020, literally, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import diffusion_jax as dj
from diffusion_jax.core.keys import split_key
from diffusion_jax.testing import oracles
from tests.papers.paper import ddpm, f32

T = 20
SHAPE = (4, 3, 2)
GRID = np.linspace(-1.0, 1.0, 256)
X0 = np.random.default_rng(0).choice(GRID, SHAPE)
X0[0, 0], X0[1, 0] = -1.0, 1.0  # the two open bins


def network(x, t, xp):
  """eps_theta(x_t, t) and the v of IDDPM, by closed formulas; t in 0..T-1."""
  return 0.8 * x + 0.2 * xp.sin(3.0 * x + t), xp.cos(2.0 * x - t)


def network_fn(params, x, noise, cond, *, key=None):
  t = noise.reshape(-1, *[1] * (x.ndim - 1))
  eps, v = network(x, t, jnp)
  return jnp.concatenate([eps, v], axis=-1) if x.ndim > 1 else eps


def denoiser(clip, learned_variance=True):
  denoise = dj.make_denoiser(
    network_fn,
    None,
    parametrization='eps',
    noise_input=dj.step_input(T),
    learned_variance=learned_variance,
  )
  return dj.clip_denoised(denoise) if clip else denoise


@functools.partial(jax.jit, static_argnames=('variance', 'clip', 'steps'))
def bound(key, schedule, x0, variance, clip, steps=None):
  return dj.variational_bound(
    key,
    denoiser(clip),
    schedule,
    x0,
    num_steps=T,
    variance=variance,
    steps=steps,
  )


def draws(keys, shape=SHAPE[1:]):
  """eps of every step 0..T, [T + 1, B, ...], as the library draws them."""
  keys = split_key(keys, 2)[1]
  draw = lambda k, t: jax.random.normal(jax.random.fold_in(k, t), shape)
  every = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))
  return np.asarray(every(keys, jnp.arange(T + 1)), np.float64)


def normal_kl(mean_1, variance_1, mean_2, variance_2):
  ratio = variance_1 / variance_2
  square = (mean_1 - mean_2) ** 2 / variance_2
  return 0.5 * (ratio - 1 - np.log(ratio) + square).sum(axis=(1, 2))


def paper(p, eps, variance, clip):
  """L_T, [L_1..L_{T-1}] and L_0 of Eq. 5, with the decoder of Eq. 13."""

  def p_theta(t, xt):
    alpha_bar, previous = p.alpha_bar[t], p.alpha_bar[t - 1]
    beta_tilde = (1 - previous) / (1 - alpha_bar) * p.beta[t]
    beta_tilde_2 = (1 - p.alpha_bar[1]) / (1 - p.alpha_bar[2]) * p.beta[2]
    eps_theta, v = network(xt, t - 1.0, np)
    x0 = (xt - np.sqrt(1 - alpha_bar) * eps_theta) / np.sqrt(alpha_bar)
    x0 = np.clip(x0, -1.0, 1.0) if clip else x0
    mean = np.sqrt(previous) * p.beta[t] / (1 - alpha_bar) * x0
    mean += np.sqrt(p.alpha[t]) * (1 - previous) / (1 - alpha_bar) * xt
    small = beta_tilde_2 if t == 1 else beta_tilde
    large = beta_tilde_2 if t == 1 else p.beta[t]
    frac = (v + 1) / 2
    learned = np.exp(frac * np.log(p.beta[t]) + (1 - frac) * np.log(small))
    choices = dict(fixed_small=small, fixed_large=large, learned=learned)
    return mean, choices[variance]

  def q_posterior(t, xt):
    alpha_bar, previous = p.alpha_bar[t], p.alpha_bar[t - 1]
    mean = np.sqrt(previous) * p.beta[t] / (1 - alpha_bar) * X0
    mean += np.sqrt(p.alpha[t]) * (1 - previous) / (1 - alpha_bar) * xt
    return mean, (1 - previous) / (1 - alpha_bar) * p.beta[t]

  def x(t):
    return np.sqrt(p.alpha_bar[t]) * X0 + np.sqrt(1 - p.alpha_bar[t]) * eps[t]

  last = p.alpha_bar[T]
  L_T = normal_kl(np.sqrt(last) * X0, 1 - last, 0.0, 1.0)
  L = [
    normal_kl(*q_posterior(t, x(t)), *p_theta(t, x(t))) for t in range(2, T + 1)
  ]
  mean, variance_1 = p_theta(1, x(1))
  deviation = np.sqrt(variance_1)
  upper = np.where(X0 == 1.0, np.inf, (X0 + 1 / 255 - mean) / deviation)
  lower = np.where(X0 == -1.0, -np.inf, (X0 - 1 / 255 - mean) / deviation)
  upper, lower = np.where(lower > 0, (-lower, -upper), (upper, lower))
  log_b, log_a = map(scipy.special.log_ndtr, (upper, lower))
  L_0 = -(log_b + np.log(-np.expm1(log_a - log_b))).sum(axis=(1, 2))
  return L_T, np.array(L).T, L_0


SEQUENCES = {'linear': dj.linear_betas(T), 'cosine': dj.cosine_betas(T)}


@pytest.mark.parametrize('name', SEQUENCES)
@pytest.mark.parametrize('clip', [False, True], ids=['free', 'clipped'])
@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'learned'])
def test_eq_5_every_term_of_the_bound(variance, clip, name, key):
  p = ddpm(SEQUENCES[name])
  keys = jax.random.split(key, len(X0))
  found = bound(keys, p.schedule, *f32(X0), variance, clip)
  L_T, L, L_0 = paper(p, draws(keys), variance, clip)
  np.testing.assert_allclose(found['prior'], L_T, rtol=1e-5)
  np.testing.assert_array_equal(found['diffusion'][:, 0], 0.0)
  np.testing.assert_allclose(found['diffusion'][:, 1:], L, rtol=1e-4)
  np.testing.assert_allclose(found['reconstruction'], L_0, rtol=1e-4)
  total = L_T + L.sum(axis=1) + L_0
  np.testing.assert_allclose(found['total'], total, rtol=1e-4)


def test_some_of_the_steps_are_terms_of_the_whole(key):
  """The noise of a step does not depend on which others are drawn."""
  arguments = ddpm(SEQUENCES['linear']).schedule, *f32(X0), 'learned', True
  keys = jax.random.split(key, len(X0))
  whole = bound(keys, *arguments)
  some = bound(keys, *arguments, steps=5)
  drawn = np.asarray(some['diffusion']) != 0.0
  assert (drawn.sum(axis=1) == 5).all() and not drawn[:, 0].any()
  assert len(np.unique(drawn, axis=0)) > 1  # each image its own
  np.testing.assert_allclose(
    some['diffusion'][drawn], 19 / 5 * whole['diffusion'][drawn], rtol=1e-5
  )
  np.testing.assert_allclose(
    some['reconstruction'], whole['reconstruction'], rtol=1e-5
  )


def test_an_image_has_the_bound_of_its_own_key(key):
  schedule = ddpm(SEQUENCES['linear']).schedule
  keys = jax.random.split(key, len(X0))
  whole = bound(keys, schedule, *f32(X0), 'learned', True, steps=5)
  other = np.array([2, 0, 2, 0])
  x0 = f32(X0[other])[0]
  found = bound(keys[other], schedule, x0, 'learned', True, steps=5)
  for name, value in found.items():
    np.testing.assert_allclose(value, whole[name][other], rtol=1e-5)


# The exact model of x_0 ~ N(0, I): E[x_0 | x_t] = alpha x_t, and fixed_large is
# the exact variance of every transition (section 3.2 of the paper). The bound
# is then tight: its mean over the noise is -log N(x_0; 0, I), for every x_0.
ORACLE = oracles.gaussian(np.zeros(2), np.eye(2))
POINTS = np.array([[0.0, 0.0], [1.0, -2.0], [0.3, 0.7]])


def exact_decoder(x0, step):
  variance = jnp.full_like(x0, step.level.sigma**2)
  return -jnp.sum(dj.log_prob(dj.Normal(step.mean, variance), x0), axis=1)


@pytest.mark.parametrize('steps', [None, 3])
@pytest.mark.parametrize(
  'schedule',
  [ddpm(SEQUENCES['linear']).schedule, dj.CosineSchedule(-6.0, 6.0)],
  ids=['clean start', 'noisy start'],
)
def test_the_bound_of_the_exact_model_is_the_likelihood(schedule, steps, key):
  copies = 4000
  x0 = jnp.asarray(np.repeat(POINTS, copies, axis=0), jnp.float32)
  run = functools.partial(
    dj.variational_bound,
    denoise=ORACLE.denoise,
    schedule=schedule,
    num_steps=T,
    variance='fixed_large',
    steps=steps,
    decoder=exact_decoder,
  )
  found = jax.jit(lambda key, x0: run(key, x0=x0))(key, x0)
  assert found['diffusion'].shape == (len(x0), T)
  clean_start = bool(schedule(0.0).sigma == 0.0)
  assert (found['diffusion'][:, 0] == 0.0).all() == clean_start
  total = np.asarray(found['total'], np.float64).reshape(3, copies)
  expected = 0.5 * (POINTS**2 + np.log(2 * np.pi)).sum(axis=1)
  error = total.std(axis=1) / copies**0.5
  assert (np.abs(total.mean(axis=1) - expected) < 4 * error + 1e-5).all()

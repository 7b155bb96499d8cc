"""DDPM's sequences in its own notation, NumPy float64, index t in 1..T.

Arrays have T + 1 entries so that `alpha_bar[t]` reads as in the paper;
`alpha_bar[0] = 1` is the paper's convention for the empty product.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

import diffusion_jax as dj


def ddpm(betas):
  T = len(betas)
  beta = np.concatenate([[np.nan], betas])
  alpha = 1.0 - beta
  alpha_bar = np.ones(T + 1)
  for t in range(1, T + 1):
    alpha_bar[t] = alpha_bar[t - 1] * alpha[t]
  schedule = dj.DiscreteSchedule.from_betas(betas)
  return SimpleNamespace(
    T=T,
    beta=beta,
    alpha=alpha,
    alpha_bar=alpha_bar,
    steps=np.arange(1, T + 1),
    schedule=schedule,
    at_step=jax.jit(schedule.at_step),
  )


def pictures(p, shape=(5,), seed=0):
  """Returns x_0 in [-1, 1], eps and x_t (Eq. 4) of p.steps, float64."""
  rng = np.random.default_rng(seed)
  x0 = rng.uniform(-1.0, 1.0, (len(p.steps), *shape))
  eps = rng.standard_normal(x0.shape)
  alpha_bar = column(p.alpha_bar[p.steps], x0)
  xt = np.sqrt(alpha_bar) * x0 + np.sqrt(1.0 - alpha_bar) * eps
  return x0, eps, xt


def column(values, like):
  return values.reshape(-1, *[1] * (like.ndim - 1))


def levels(p):
  """Returns the library's levels of steps t - 1 and t, for p.steps."""
  return jax.device_get((p.at_step(p.steps - 1), p.at_step(p.steps)))


def f32(*arrays) -> Any:
  return [jnp.asarray(a, jnp.float32) for a in arrays]


def network(params, x, t, xp):
  """Computes eps_theta(x_t, t) and v (IDDPM Eq. 15), t in 0..T-1."""
  of_eps, of_v = params
  eps = of_eps * (0.8 * x + 0.2 * xp.sin(3.0 * x + t))
  return eps, of_v * xp.cos(2.0 * x - t)


def network_fn(params, x, noise, cond, *, key=None):
  """The same as a network function of the library."""
  t = noise.reshape(-1, *[1] * (x.ndim - 1))
  return jnp.concatenate(network(params, x, t, jnp), axis=-1)


def normal_kl(mean_1, variance_1, mean_2, variance_2):
  ratio = variance_1 / variance_2
  square = (mean_1 - mean_2) ** 2 / variance_2
  kl = 0.5 * (ratio - 1 - np.log(ratio) + square)
  return kl.sum(axis=tuple(range(1, kl.ndim)))


def bound_terms(p, x0, eps, variance, clip, params=(1.0, 1.0), bins=256, mean_of=None):
  """Returns L_T [B], L_1..L_{T-1} [B, T-1] and L_0 [B] of Eq. 5, in nats."""

  def p_theta(t, xt):
    alpha_bar, previous = p.alpha_bar[t], p.alpha_bar[t - 1]
    beta_tilde = (1 - previous) / (1 - alpha_bar) * p.beta[t]
    beta_tilde_2 = (1 - p.alpha_bar[1]) / (1 - p.alpha_bar[2]) * p.beta[2]
    eps_theta, _ = network(mean_of or params, xt, t - 1.0, np)
    _, v = network(params, xt, t - 1.0, np)
    x0 = (xt - np.sqrt(1 - alpha_bar) * eps_theta) / np.sqrt(alpha_bar)
    x0 = np.clip(x0, -1.0, 1.0) if clip else x0
    small = beta_tilde_2 if t == 1 else beta_tilde
    large = beta_tilde_2 if t == 1 else p.beta[t]
    frac = (v + 1) / 2
    learned = np.exp(frac * np.log(p.beta[t]) + (1 - frac) * np.log(small))
    choices = dict(fixed_small=small, fixed_large=large, learned=learned)
    return mu_tilde(t, xt, x0), choices[variance]

  def mu_tilde(t, xt, x0):
    alpha_bar, previous = p.alpha_bar[t], p.alpha_bar[t - 1]
    mean = np.sqrt(previous) * p.beta[t] / (1 - alpha_bar) * x0
    return mean + np.sqrt(p.alpha[t]) * (1 - previous) / (1 - alpha_bar) * xt

  def q_posterior(t, xt):
    ratio = (1 - p.alpha_bar[t - 1]) / (1 - p.alpha_bar[t])
    return mu_tilde(t, xt, x0), ratio * p.beta[t]

  def x(t):
    alpha_bar = p.alpha_bar[t]
    return np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps[t]

  last = p.alpha_bar[p.T]
  L_T = normal_kl(np.sqrt(last) * x0, 1 - last, 0.0, 1.0)
  L = [normal_kl(*q_posterior(t, x(t)), *p_theta(t, x(t))) for t in range(2, p.T + 1)]
  mean, variance_1 = p_theta(1, x(1))
  deviation, half = np.sqrt(variance_1), 1 / (bins - 1)
  upper = np.where(x0 == 1.0, np.inf, (x0 + half - mean) / deviation)
  lower = np.where(x0 == -1.0, -np.inf, (x0 - half - mean) / deviation)
  upper, lower = np.where(lower > 0, (-lower, -upper), (upper, lower))
  log_b, log_a = map(scipy.special.log_ndtr, (upper, lower))
  log_mass = log_b + np.log(-np.expm1(log_a - log_b))
  L_0 = -log_mass.sum(axis=tuple(range(1, x0.ndim)))
  return L_T, np.array(L).T, L_0

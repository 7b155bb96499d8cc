"""DDPM's sequences in its own notation, NumPy float64, index t in 1..T.

Arrays have T + 1 entries so that `alpha_bar[t]` reads as in the paper;
`alpha_bar[0] = 1` is the paper's convention for the empty product.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from tests import jitted as dj


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
  """x_0 in [-1, 1], eps and x_t (Eq. 4) for t = 1..T, float64 [T, ...]."""
  rng = np.random.default_rng(seed)
  x0 = rng.uniform(-1.0, 1.0, (p.T, *shape))
  eps = rng.standard_normal((p.T, *shape))
  alpha_bar = column(p.alpha_bar[1:], x0)
  xt = np.sqrt(alpha_bar) * x0 + np.sqrt(1.0 - alpha_bar) * eps
  return x0, eps, xt


def column(values, like):
  return values.reshape(-1, *[1] * (like.ndim - 1))


def levels(p):
  """Our levels of steps t - 1 and t, for t = 1..T."""
  return p.at_step(p.steps - 1), p.at_step(p.steps)


def f32(*arrays):
  return [jnp.asarray(a, jnp.float32) for a in arrays]

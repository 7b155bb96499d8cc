"""Self-Flow (Chefer et al. 2026, arXiv 2603.06507): two noise levels among an example's tokens.

A training draws two levels, and a mask says which token has which. The average of the network sees
all tokens at the cleaner one, and a head predicts a hidden layer of it. The data are 8 tokens of a
mixture of normals, whose denoiser is exact; the error is that at one level for all, with which
samples are drawn. We could not look up arXiv 2607.02508, as we understand it on such levels too.

  python -m benchmarks.claims two_levels
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Objective
from examples.papers.fitting import fit

TOKENS, CHANNELS, SCHEDULE = 8, 32, dj.RectifiedFlowSchedule()


class Layers(nn.Module):
  """Computes residual layers of all tokens: x, t [B, T] -> (velocity [B, T], hidden layers)."""

  @nn.compact
  def __call__(self, x, t):
    """Computes the velocity and the hidden layers."""
    h = nn.Dense(CHANNELS)(jnp.concatenate([x, t, jnp.sin(6.0 * t), jnp.cos(6.0 * t)], axis=1))
    hidden = []
    for _ in range(3):
      h += nn.Dense(CHANNELS)(nn.silu(nn.Dense(2 * CHANNELS)(nn.LayerNorm()(h))))
      hidden.append(h)
    return nn.Dense(TOKENS)(h), hidden


def apply(params, x, noise, cond, *, key=None):
  """Evaluates the velocity, the network of `dj.Network`."""
  return Layers().apply({'params': params}, x, noise)[0]


NETWORK = dj.Network(apply, dj.time_input(1.0), parametrization='flow', level_axes=2)


def two_levels(key, shape, times, schedule):
  """Draws two levels of each example, and which token has which: a `LevelSampler`."""
  first, second, mask = jax.random.split(key, 3)
  one, other = (times(k, shape[0], schedule)[0].t[:, None] for k in (first, second))
  t = jnp.where(jax.random.bernoulli(mask, 0.5, shape), one, other)
  return schedule(t), jnp.ones(shape)


def one_level(key, shape, times, schedule):
  """Draws one level of each example."""
  t = times(key, shape[0], schedule)[0].t
  return schedule(jnp.broadcast_to(t[:, None], shape)), jnp.ones(shape)


def objective(levels, align: float = 0.0) -> Objective:
  """Makes |v - (eps - x_0)|^2 - align cos(head(h_1), h_3 of the average at the cleaner level)."""

  def draw(key, batch, context):
    return objectives.draw_inputs(key, batch, SCHEDULE, NETWORK, dj.uniform_times, levels=levels)

  def loss(params, context, inputs, keys):
    t = inputs.level.t
    v, hidden = Layers().apply({'params': params['network']}, inputs.xt, t)
    losses = jnp.square(v - (inputs.eps - inputs.x0)).mean(axis=1)
    if align:
      cleaner = SCHEDULE(jnp.broadcast_to(t.min(axis=1, keepdims=True), t.shape))
      seen = dj.q_sample(inputs.x0, inputs.eps, cleaner)
      teacher = Layers().apply({'params': context.ema_params['network']}, seen, cleaner.t)[1][2]
      losses -= align * cosine(hidden[0] @ params['head'], jax.lax.stop_gradient(teacher))
    return objectives.mean_loss(losses, t.mean(axis=1))

  def head(key):
    return {'head': jax.random.normal(key, (CHANNELS, CHANNELS)) / CHANNELS**0.5}

  return Objective(draw, loss, parameters=head)


def cosine(x, y):
  """Computes the cosine of the angle between rows, [B]."""
  return (x * y).sum(axis=1) / (jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(y, axis=1) + 1e-6)


def law() -> oracles.Mixture:
  """Returns two normals of 8 tokens, one smooth and one that alternates."""
  i = np.arange(TOKENS)
  smooth = 0.9 ** np.abs(i[:, None] - i[None])
  sign = (-1.0) ** (i[:, None] + i[None])
  return oracles.mixture([0.5, 0.5], np.zeros((2, TOKENS)), [smooth, smooth * sign])


@functools.partial(jax.jit, static_argnums=(1, 2))
def distance(key, levels, align):
  """Returns log of the mean distance to the exact velocity, at one level for all tokens."""
  init_key, fit_key, x_key, test_key = jax.random.split(key, 4)
  oracle = law()
  params = Layers().init(init_key, jnp.zeros((1, TOKENS)), jnp.zeros((1, TOKENS)))['params']

  def batch(key):
    return {'x': oracle.sample(key, 128)}

  params = fit(fit_key, objective(levels, align), params, batch, steps=2000)
  level, _ = one_level(test_key, (4000, TOKENS), dj.uniform_times, SCHEDULE)
  x0 = oracle.sample(x_key, 4000)
  xt = dj.q_sample(x0, jax.random.normal(test_key, x0.shape), level)
  of_all = jax.tree.map(lambda a: a[:, 0], level)
  error = NETWORK.output(params, xt, level) - oracle.velocity(xt, of_all)
  return jnp.log(jnp.square(error).mean())


def track(seed: int) -> dict[str, float]:
  """Measures log errors of one level, of two levels, and of two with the head."""
  keys = jax.random.split(jax.random.key(seed), 2)
  cases = {'one': (keys[0], one_level, 0.0), 'again': (keys[1], one_level, 0.0)}
  cases |= {'two': (keys[0], two_levels, 0.0), 'aligned': (keys[0], two_levels, 0.5)}
  return {name: float(distance(*case)) for name, case in cases.items()}

"""The order gap of a perceptron during its training, beside what it lacks of the bound.

  python -m benchmarks.order_gap

Data: AR(1) series of 6 numbers, N(0, 0.8^|i - j|). The network estimates v by two layers of
128 units. It is trained with a level for each number, drawn independently, or with one for the
series. Each row is a training, measured at some of its steps on the same 4,096 new series: the
bound along orders less that of all together, in nats per number, and the bound of all together
less that of the exact denoiser. Errors are standard errors over three trainings.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.metrics.order_gap import ORDERS, TOGETHER
from diffusion_jax.testing import oracles

T, BATCH, SEEDS = 6, 512, 3
PLACES = np.arange(T)
LAW = oracles.gaussian(np.zeros(T), 0.8 ** np.abs(PLACES[:, None] - PLACES))
SCHEDULE = dj.CosineSchedule(-6.0, 4.0)
ENDS = dj.level_grid(SCHEDULE, 1, end_clean=False)
STEPS = 100, 300, 1000, 3000
LEVELS = {'a level for each number': T, 'one level for the series': 1}


class Perceptron(nn.Module):
  """Estimates v from the noisy numbers and the log-SNR of each."""

  @nn.compact
  def __call__(self, x, noise):
    """Returns v [B, T] of x and noise, both [B, T]."""
    h = jnp.concatenate([x, noise / 4.0], axis=-1)
    for _ in range(2):
      h = nn.silu(nn.Dense(128)(h))
    return nn.Dense(T)(h)


MODULE = Perceptron()
NETWORK = dj.Network(
  cast(Any, lambda params, x, noise, cond, *, key=None: MODULE.apply(params, x, noise)),
  dj.logsnr_input,
  parametrization='v',
  level_axes=2,
)


class Curve(NamedTuple):
  """What is measured at `steps`, [S] each: the gap of each order, and what the bound lacks."""

  steps: np.ndarray
  gaps: dict[str, np.ndarray]
  lacks: np.ndarray


def estimate(params, x, level):
  """Estimates x_0."""
  return NETWORK.denoiser(params)(x, level)


@jax.jit
def bounds(key, denoise, x0):
  """Returns the bound in each order in nats per number, {name: [B]}."""

  def nats(order):
    path = dj.staggered(ENDS, order(PLACES))
    return dj.path_bound(key, denoise, SCHEDULE, path, x0, num_times=16) / T

  return {name: nats(order) for name, order in ORDERS.items()}


def trained(each, seed, steps=STEPS):
  """Yields the parameters of a training at some steps; each: how many levels a series has."""
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps[-1]))
  root = jax.random.key(seed)

  def loss(params, key):
    keys = jax.random.split(key, 3)
    x0, eps = LAW.sample(keys[0], BATCH), jax.random.normal(keys[1], (BATCH, T))
    logsnr = jax.random.uniform(keys[2], (BATCH, each), minval=-6.0, maxval=4.0)
    level = SCHEDULE.from_logsnr(logsnr)
    output = NETWORK.output(params, dj.q_sample(x0, eps, level), level)
    return jnp.mean(NETWORK.denoising_loss(output, x0, eps, level, dj.v_weight))

  def step(state, i):
    params, opt_state = state
    slopes = jax.grad(loss)(params, jax.random.fold_in(root, i))
    updates, opt_state = optimizer.update(slopes, opt_state)
    return (optax.apply_updates(params, updates), opt_state), None

  run = jax.jit(lambda state, index: jax.lax.scan(step, state, index)[0])
  params = MODULE.init(root, jnp.zeros((1, T)), jnp.zeros((1, T)))
  state, done = (params, optimizer.init(params)), 0
  for count in steps:
    state, done = run(state, jnp.arange(done, count)), count
    yield state[0]


def learn(each, seed, steps=STEPS, num_series=4096):
  """Trains, and returns the `Curve`."""
  key, data_key = jax.random.split(jax.random.key(1000 + seed))
  x0 = LAW.sample(data_key, num_series)

  def of(*denoise):
    return jax.device_get(bounds(key, jax.tree_util.Partial(*denoise), x0))

  exact = of(LAW.denoise)
  rows = [of(estimate, params) for params in trained(each, seed, steps)]
  gaps = {
    name: np.array([np.mean(row[name] - row[TOGETHER]) for row in rows])
    for name in ORDERS
    if name != TOGETHER
  }
  lacks = np.array([np.mean(row[TOGETHER] - exact[TOGETHER]) for row in rows])
  return Curve(np.array(steps), gaps, lacks)


def main():
  """Prints a row for each kind of levels and number of steps."""
  for name, each in LEVELS.items():
    curves = [learn(each, seed) for seed in range(SEEDS)]
    for i, step in enumerate(STEPS):
      values = {order: [c.gaps[order][i] for c in curves] for order in curves[0].gaps}
      values['lacks'] = [c.lacks[i] for c in curves]
      shown = [
        f'{what} {np.mean(x):.4f} +- {np.std(x, ddof=1) / len(x) ** 0.5:.4f}'
        for what, x in values.items()
      ]
      print(f'{name}, {step} steps: {", ".join(shown)}', flush=True)


if __name__ == '__main__':
  main()

"""Flow maps without a teacher on two problems whose truth is known.

  python -m benchmarks.flow_maps                          # at equal steps
  python -m benchmarks.flow_maps --seconds=60             # of processor time
  python -m benchmarks.flow_maps --data=checkerboard --methods lagrangian

The methods train the same MLP (4 x 128, GELU, sinusoids of t and t - s) on the
straight path by Adam, 2e-3 on a cosine, batches of 256, an average of 0.999.

`ring`: five Gaussians on a circle. Figures are the root mean square and the
median distance of 2,000 samples in 1, 2 and 4 calls to the exact map of the
same noise (`Mixture.flow_map`), over the deviation of the data. `checkerboard`:
eight of 4 x 4 squares. Figures are KL(data || samples) in nats in 1, 2, 4, 8
and 16 calls, of 100,000 draws each in 60 x 60 bins on [-2.5, 2.5], 1e-8 added
to each share (the notebook of NathanVanier/flow-map-self-distillation).
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.few_steps import average_velocity as flow_maps
from diffusion_jax.testing import oracles
from diffusion_jax.training.objectives import Context, Network

CHUNK, BATCH, WIDTH = 250, 256, 128
SCHEDULE = dj.RectifiedFlowSchedule()
METHODS = {
  'mean_flow': (flow_maps.mean_flow, {}),
  'lagrangian': (flow_maps.lagrangian, {}),
  'progressive': (flow_maps.progressive, {}),
  'midpoint': (flow_maps.progressive, {'midpoint': True}),
}
ANGLES = 0.4 * np.pi * np.arange(5)
CENTRES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
RING = oracles.mixture(np.ones(5), CENTRES, [0.01 * np.eye(2)] * 5)


def checkerboard(key, count):
  """Draws [count, 2], uniform in the squares (i, j) with i + j even."""
  column_key, row_key, key = jax.random.split(key, 3)
  column = jax.random.randint(column_key, (count,), 0, 4)
  row = 2 * jax.random.randint(row_key, (count,), 0, 2) + column % 2
  return jnp.stack([column, row], axis=1) - 2.0 + jax.random.uniform(key, (count, 2))


def features(t):
  """Computes t and its sinusoids of four frequencies, [B, 9]."""
  angles = t[:, None] * 0.5 * jnp.pi * jnp.array([[1.0, 2.0, 4.0, 8.0]])
  return jnp.concatenate([t[:, None], jnp.sin(angles), jnp.cos(angles)], axis=1)


def mlp(params, x, noise, cond, *, key=None):
  """Computes the network of x [B, 2], t and cond['elapsed'], [B, 2]."""
  h = jnp.concatenate([x, features(noise), features(cond['elapsed'])], axis=1)
  for kernel, bias in params[:-1]:
    h = jax.nn.gelu(h @ kernel + bias[None])
  kernel, bias = params[-1]
  return h @ kernel + bias[None]


def first_params(key, outputs=2):
  """Draws the weights of `mlp`, N(0, 2 / inputs)."""
  widths = 20, WIDTH, WIDTH, WIDTH, WIDTH, outputs
  shapes = list(zip(widths[:-1], widths[1:], strict=True))
  keys = jax.random.split(key, len(shapes))
  layers = zip(keys, shapes, strict=True)
  return [(jax.random.normal(k, s) * (2 / s[0]) ** 0.5, jnp.zeros(s[1])) for k, s in layers]


NETWORK = Network(mlp, dj.time_input(1.0))


def train(method, draw, seed, steps, seconds=0.0):
  """Returns averaged parameters, the number of steps and processor seconds.

  With seconds, the steps so far tell how many there will be.
  """
  constructor, options = METHODS[method]
  p_equal = 0.25 if method == 'mean_flow' else 0.0
  times = flow_maps.independent_times(p_equal=p_equal, p_t1=0.25, p_s0=0.15)
  objective = constructor(NETWORK, SCHEDULE, two_times=times, **options)
  adam = optax.scale_by_adam()

  def step(carry, inputs):
    params, state, average = carry
    key, rate = inputs
    data_key, key = jax.random.split(key)
    batch = {'x': draw(data_key, BATCH)}
    gradient = jax.grad(lambda params: objective({'network': params}, Context(), key, batch)[0])
    changes, state = adam.update(gradient(params), state)
    params = jax.tree.map(lambda p, change: p - rate * change, params, changes)
    average = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, params)
    return (params, state, average), None

  @jax.jit
  def chunk(carry, key, start, count):
    progress = (start + jnp.arange(CHUNK)) / count
    rates = 1e-3 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(progress, 1.0)))
    return jax.lax.scan(step, carry, (jax.random.split(key, CHUNK), rates))[0]

  params = first_params(jax.random.key(seed))
  carry = params, adam.init(params), params
  jax.block_until_ready(chunk(carry, jax.random.key(0), 0, 1.0))  # compiles
  begin, done = time.process_time(), 0
  while done < steps:
    key = jax.random.fold_in(jax.random.key(seed + 1), done)
    carry = jax.block_until_ready(chunk(carry, key, done, float(steps)))
    done += CHUNK
    if seconds:
      steps = done * seconds / (time.process_time() - begin)
  return carry[2], done, time.process_time() - begin


@functools.partial(jax.jit, static_argnums=2)
def samples(params, noise, calls):
  """Draws x [N, 2] from noise [N, 2] in a number of calls."""
  flow_map = dj.make_flow_map(NETWORK, params, kind='average_velocity')
  levels = dj.level_grid(SCHEDULE, calls)
  return dj.sample_map(jax.random.key(0), flow_map, levels, noise)


def distances(params):
  """Returns {calls: (rms, median)} of the distance to the exact map."""
  noise = jax.random.normal(jax.random.key(99), (2000, 2))
  levels = dj.level_grid(SCHEDULE, 1)
  exact = jax.jit(RING.flow_map)(noise, levels.take(0), levels.take(1))
  figures = {}
  for calls in (1, 2, 4):
    square = jnp.sum(jnp.square(samples(params, noise, calls) - exact), axis=1)
    figures[calls] = jnp.sqrt(jnp.stack([square.mean() / 2, jnp.median(square)]))
  return {calls: np.asarray(pair / jnp.std(exact)) for calls, pair in figures.items()}


def divergence(x, y):
  """Returns KL(x || y) in nats of draws [N, 2] in 60 x 60 bins."""
  edges = np.linspace(-2.5, 2.5, 61)
  p, q = (np.histogram2d(*np.asarray(draws).T, bins=edges)[0] for draws in (x, y))
  p, q = p / p.sum() + 1e-8, q / q.sum() + 1e-8
  return np.sum(p * np.log(p / q))


def divergences(params, count=100_000):
  """Returns {calls: KL of the checkerboard to the samples}."""
  data_key, key = jax.random.split(jax.random.key(99))
  data, noise = checkerboard(data_key, count), jax.random.normal(key, (count, 2))
  return {n: divergence(data, samples(params, noise, n)) for n in (1, 2, 4, 8, 16)}


def main():
  """Prints a row for each method."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.flow_maps')
  parser.add_argument('--data', choices=['ring', 'checkerboard'], default='ring')
  parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
  parser.add_argument('--steps', type=int, default=6000, help='of each training')
  parser.add_argument('--seconds', type=float, default=0.0, help='processor time instead')
  parser.add_argument('--seed', type=int, default=0, help='of weights and batches')
  args = parser.parse_args()
  draw, figures_of = RING.sample, distances
  if args.data == 'checkerboard':
    draw, figures_of = checkerboard, divergences
  for method in args.methods:
    params, steps, seconds = train(method, draw, args.seed, args.steps, args.seconds)
    figures = [f'{n}: {np.round(x, 3)}' for n, x in figures_of(params).items()]
    print(f'{method:12} {steps} steps {seconds:.0f} s  {"  ".join(figures)}', flush=True)


if __name__ == '__main__':
  main()

"""Which prediction survives: data of d dimensions in D, by a narrow MLP.

  python -m benchmarks.subspace --out=docs/images/subspace

JiT's experiment (Li & He 2025, section 3) with data whose law is known: x_0 = P
z, z ~ N(0, diag(1, 1/4)), P a random matrix [D, 2] of orthonormal columns. An
MLP of 128 units predicts x_0, eps or the velocity; the loss is the squared
error of the velocity in all three, computed of the prediction with denominators
of at least 0.05. Samples are by 50 steps of `velocity_heun`. Two figures are
taken of the covariance of 4,096 of them: its relative error ||S - C|| / ||C||,
whose expectation for exact samples is known, and the part of the variance
outside of the plane, relative to the whole of C. Writes <out>.json and
<out>.png.
"""

import functools
import json

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import app, flags

import diffusion_jax as dj

flags.DEFINE_string('out', 'subspace', 'Files to write, without their suffix.')
flags.DEFINE_list('sizes', ['16', '64', '256', '512'], 'Values of D.')
flags.DEFINE_integer('steps', 2000, 'Of training.')
flags.DEFINE_integer('seeds', 2, 'Trainings of each kind.')

SCHEDULE = dj.RectifiedFlowSchedule()
SCALES = np.array([1.0, 0.5])
KINDS = {'x0': 'x-prediction', 'eps': 'ε-prediction', 'flow': 'v-prediction'}
WIDTH, LAYERS, BATCH, SAMPLES = 128, 5, 256, 4096


def init(key, size):
  """Returns the layers of an MLP of x_t and t to R^size, LeCun-normal."""
  widths = [size + 1] + [WIDTH] * (LAYERS - 1) + [size]
  keys = jax.random.split(key, LAYERS)
  return [
    (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
    for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
  ]


def network(params, x, t):
  """Computes the MLP of ReLUs, [B, D]; x: [B, D], t: []  or [B]."""
  t = jnp.broadcast_to(t, len(x))
  h = jnp.concatenate([x, t[:, None]], axis=1)
  for i, (kernel, bias) in enumerate(params):
    h = h @ kernel + bias[None]
    h = jax.nn.relu(h) if i < LAYERS - 1 else h
  return h


def velocity(kind, output, x, t):
  """Returns the velocity of a prediction or of its truth."""
  if kind == 'x0':
    return (x - output) / jnp.maximum(t, 0.05)
  if kind == 'eps':
    return (output - x) / jnp.maximum(1.0 - t, 0.05)
  return output


def train(key, kind, size, num_steps):
  """Returns (parameters, P) of one training."""
  plane_key, init_key, key = jax.random.split(key, 3)
  plane, _ = jnp.linalg.qr(jax.random.normal(plane_key, (size, 2)))
  rate = optax.cosine_decay_schedule(1e-3, num_steps)
  adam = optax.adam(rate)

  def loss(params, key):
    keys = jax.random.split(key, 3)
    x0 = jax.random.normal(keys[0], (BATCH, 2)) * SCALES[None] @ plane.T
    eps = jax.random.normal(keys[1], (BATCH, size))
    t = jax.nn.sigmoid(jax.random.normal(keys[2], (BATCH,)))
    level = SCHEDULE(t)
    xt, t = dj.q_sample(x0, eps, level), t[:, None]
    truth = dj.target(kind, x0, eps, level)
    output = network(params, xt, t[:, 0])
    error = velocity(kind, output, xt, t) - velocity(kind, truth, xt, t)
    return jnp.mean(error**2)

  def step(carry, i):
    params, state = carry
    grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
    updates, state = adam.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  params = init(init_key, size)
  carry = params, adam.init(params)
  (params, _), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
  return params, plane


def measure(key, kind, params, plane):
  """Returns the error of the covariance, and the variance off the plane."""
  size = len(plane)

  def denoise(x, level):
    t = level.expand_to(x).t
    v = velocity(kind, network(params, x, level.t), x, t)
    return dj.Prediction(x - t * v)

  levels = dj.level_grid(SCHEDULE, 50)
  x = jax.random.normal(key, (SAMPLES, size))
  sampler = dj.velocity_heun(SCHEDULE)
  x = dj.sample(key, denoise, sampler, levels, x)
  covariance = jnp.cov(x.T)
  exact = (plane * SCALES[None] ** 2) @ plane.T
  error = jnp.linalg.norm(covariance - exact) / jnp.linalg.norm(exact)
  inside = jnp.trace(plane.T @ covariance @ plane)
  outside = (jnp.trace(covariance) - inside) / jnp.trace(exact)
  return error, outside


@functools.partial(jax.jit, static_argnames=('kind', 'size', 'num_steps'))
def run(key, kind, size, num_steps):
  """Returns both figures of one training."""
  train_key, sample_key = jax.random.split(key)
  params, plane = train(train_key, kind, size, num_steps)
  return measure(sample_key, kind, params, plane)


def floor():
  """Returns the root mean square error of the covariance of exact samples."""
  square = np.sum(SCALES**4)
  return np.sqrt((np.sum(SCALES**2) ** 2 + square) / (SAMPLES - 1) / square)


def picture(rows, path):
  """Draws the error of the covariance against D, one line a prediction."""
  figure, axes = plt.subplots(figsize=(5, 3.2), layout='constrained')
  for kind, name in KINDS.items():
    chosen = [row for row in rows if row['kind'] == kind]
    sizes = sorted({row['D'] for row in chosen})
    errors = [
      [row['error'] for row in chosen if row['D'] == size] for size in sizes
    ]
    middle = np.median(errors, axis=1)
    ends = np.abs(np.array([np.min(errors, 1), np.max(errors, 1)]) - middle)
    axes.errorbar(sizes, middle, ends, marker='o', capsize=3, label=name)
  axes.axhline(floor(), color='grey', linestyle=':', label='exact samples')
  axes.set(xscale='log', yscale='log', xlabel='D (data of 2 dimensions)')
  axes.set(ylabel='relative error of the covariance')
  axes.set_xticks(sizes, [str(size) for size in sizes])
  axes.minorticks_off()
  axes.legend()
  figure.savefig(path, dpi=120)


def main(argv):
  """Trains, measures and writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  options, rows = flags.FLAGS, []
  print(f'exact samples: {floor():.3f}')
  for size in map(int, options.sizes):
    for kind in KINDS:
      for seed in range(options.seeds):
        key = jax.random.key(seed)
        error, outside = run(key, kind, size, options.steps)
        row = {'D': size, 'kind': kind, 'seed': seed}
        row |= {'error': float(error), 'outside': float(outside)}
        print(row, flush=True)
        rows.append(row)
  with open(f'{options.out}.json', 'w') as file:
    json.dump(rows, file, indent=1)
  picture(rows, f'{options.out}.png')


if __name__ == '__main__':
  app.run(main)

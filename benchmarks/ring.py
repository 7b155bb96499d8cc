"""Few-step methods against the exact flow map: five Gaussians on a ring.

  python -m benchmarks.ring --out=docs/images/ring
  python -m benchmarks.ring --methods=mean_flow,ect

Every method trains the same MLP (4 x 128, GELU) with Adam, 2e-3 on a cosine,
batches of 256 and an average of 0.999, on the straight path, for equally many
steps. Figures are of 4,096 draws of noise: `rel`, the root mean square distance
between what the method makes of a draw and the exact map of it
(`Mixture.flow_map`), divided by the deviation of the data (1 is the error of
one Euler step, which sends all to the mean); `med`, the median of that
distance; `sw2`, the sliced Wasserstein distance to draws of the data. With 1, 2
and 4 calls of the network on uniform times; consistency functions add noise
between their calls, so that for more than one call only sw2 means something.
Writes <out>.json, to which results of other methods are kept, and <out>.png.
"""

import functools
import json
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags

from benchmarks import ring_methods as methods
from diffusion_jax.core.flow_losses import pseudo_huber
from diffusion_jax.training import level_pairs

flags.DEFINE_string('out', 'ring', 'Files to write, without their suffix.')
flags.DEFINE_list('methods', [], 'Those to run, by default all.')
flags.DEFINE_integer('steps', 6000, 'Of training, for each method.')
flags.DEFINE_integer('seed', 0, 'Of the weights, the batches and the noise.')

DRAWS = 4096
CALLS = 1, 2, 4

VELOCITY = methods.by_map('average_velocity')
TRIGFLOW = methods.by_map('trigflow')
CONSISTENCY = methods.by_map('consistency')
part = functools.partial
METHODS = {
  'noise': ('noise itself', None, lambda params, key, x, calls: x),
  'exact_map': (
    'exact map',
    None,
    lambda params, key, x, calls: methods.exact_map(x),
  ),
  'exact_euler': ('Euler, exact velocity', None, methods.exact_euler),
  'flow_matching': (
    'flow matching, Euler',
    methods.flow_matching,
    methods.by_euler,
  ),
  'mean_flow_published': (
    'MeanFlow, published times',
    part(methods.mean_flow, published=True, improved=False),
    VELOCITY,
  ),
  'improved_published': (
    'improved MeanFlow, published times',
    part(methods.mean_flow, published=True),
    VELOCITY,
  ),
  'mean_flow': ('MeanFlow', part(methods.mean_flow, improved=False), VELOCITY),
  'mean_flow_p1': (
    'MeanFlow, p = 1',
    part(methods.mean_flow, improved=False, adaptive_power=1.0),
    VELOCITY,
  ),
  'improved': ('improved MeanFlow', methods.mean_flow, VELOCITY),
  'shortcut': ('shortcut', methods.shortcut, VELOCITY),
  'shortcut_average': (
    'shortcut, averaged targets',
    part(methods.shortcut, ema_target=True),
    VELOCITY,
  ),
  'ict': (
    'iCT',
    lambda key, steps: methods.consistent(
      key, steps, level_pairs.improved_pairs(steps, mean=0.0, std=1.2)
    ),
    CONSISTENCY,
  ),
  'ect': (
    'ECT',
    lambda key, steps: methods.consistent(
      key, steps, methods.easy(steps), distance=pseudo_huber(0.0)
    ),
    CONSISTENCY,
  ),
  'cd': (
    'consistency distillation, exact teacher',
    lambda key, steps: methods.distilled(
      key, steps, methods.easy(steps), distance=pseudo_huber(0.0)
    ),
    CONSISTENCY,
  ),
  'sct': ('sCT', methods.continuous, TRIGFLOW),
  'scd': (
    'sCD, exact teacher',
    part(methods.continuous, teacher=methods.exact_teacher),
    TRIGFLOW,
  ),
  'progressive': (
    'progressive distillation',
    methods.progressive,
    methods.by_euler,
  ),
  'reflow': ('reflow, exact pairs', methods.reflow, methods.by_euler),
  'regression': (
    'regression on exact pairs',
    part(methods.reflow, times=methods.at_start),
    methods.by_euler,
  ),
}


def sliced_wasserstein(a, b, directions=128):
  """Returns the sliced 2-Wasserstein distance of samples [N, 2]."""
  angles = np.pi * np.arange(directions) / directions
  axes = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
  gap = jnp.sort(a @ axes, axis=0) - jnp.sort(b @ axes, axis=0)
  return jnp.sqrt(jnp.mean(gap**2))


def measure(x, exact, data):
  """Returns rel, med and sw2 of samples x [N, 2]."""
  deviation = methods.DEVIATION * np.sqrt(2.0)
  distance = jnp.linalg.norm(x - exact, axis=1) / deviation
  return {
    'rel': float(jnp.sqrt(jnp.mean(distance**2))),
    'med': float(jnp.median(distance)),
    'sw2': float(sliced_wasserstein(x, data)),
  }


def disc(rings=14):
  """Returns points on circles about 0, evenly in the mass of N(0, I)."""
  share = (np.arange(rings) + 0.5) / rings
  radii = np.sqrt(-2.0 * np.log1p(-share))
  angles = 2.0 * np.pi * np.arange(60) / 60
  points = radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
  return jnp.asarray(points.reshape(-1, 2), jnp.float32)


def run(name, seed, steps):
  """Trains a method; returns its row, with the picture's points."""
  title, train, sampler = METHODS[name]
  train_key, noise_key, data_key, key = jax.random.split(
    jax.random.key(seed), 4
  )
  start = time.perf_counter()
  params = train(train_key, steps) if train else ()
  row = {'name': title, 'seconds': time.perf_counter() - start, 'steps': steps}
  noise = jax.random.normal(noise_key, (DRAWS, 2))
  exact, data = methods.exact_map(noise), methods.DATA.sample(data_key, DRAWS)
  for calls in CALLS:
    draw = jax.jit(functools.partial(sampler, params, calls=calls))
    row[str(calls)] = measure(draw(key, noise), exact, data)
  draw = jax.jit(functools.partial(sampler, params, calls=1))
  row['points'] = np.round(np.asarray(draw(key, disc())), 3).tolist()
  return row


def table(rows):
  """Returns the table of all results as text."""
  lines = [f'{"":40} s     ' + '  '.join(f'{c} rel  med  sw2' for c in CALLS)]
  for row in rows:
    figures = '  '.join(
      ' '.join(f'{row[str(c)][k]:5.2f}' for k in ('rel', 'med', 'sw2'))
      for c in CALLS
    )
    lines.append(f'{row["name"]:40} {row["seconds"]:4.0f} {figures}')
  return '\n'.join(lines)


def picture(rows, path):
  """Draws where one call of each method sends circles of noise."""
  noise = np.asarray(disc())
  angle = np.arctan2(noise[:, 1], noise[:, 0])
  panels = [(row['name'], np.array(row['points'])) for row in rows]
  columns = 5
  lines = -(-len(panels) // columns)
  figure, axes = plt.subplots(
    lines, columns, figsize=(2 * columns, 2.15 * lines), layout='constrained'
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, (title, points) in zip(axes.flat, panels, strict=False):
    axis.scatter(*points.T, c=angle, cmap='hsv', s=2, linewidths=0)
    axis.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect='equal')
    axis.set_title(title.replace(', ', ',\n'), fontsize=7)
  figure.savefig(path, dpi=72)


def main(argv):
  """Trains, measures and writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  options = flags.FLAGS
  names = options.methods or list(METHODS)
  unknown = [name for name in names if name not in METHODS]
  if unknown:
    raise app.UsageError(
      f'--methods: {unknown[0]!r} is not one of {", ".join(METHODS)}'
    )
  path, rows = f'{options.out}.json', {}
  if os.path.exists(path):
    with open(path) as file:
      rows = json.load(file)
  for name in names:
    rows[name] = run(name, options.seed, options.steps)
    rows = {name: rows[name] for name in METHODS if name in rows}
    with open(path, 'w') as file:
      json.dump(rows, file)
    print(table([rows[name]]), flush=True)
  print(table(rows.values()))
  picture(list(rows.values()), f'{options.out}.png')


if __name__ == '__main__':
  app.run(main)

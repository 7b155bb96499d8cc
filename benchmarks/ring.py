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
import optax
from absl import app, flags

import diffusion_jax as dj
from diffusion_jax.core.flow_losses import pseudo_huber
from diffusion_jax.testing import oracles
from diffusion_jax.training import consistency, distillation, flow_maps
from diffusion_jax.training.objectives import denoising
from diffusion_jax.training.optimizer import ema_decay
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step

flags.DEFINE_string('out', 'ring', 'Files to write, without their suffix.')
flags.DEFINE_list('methods', [], 'Those to run, by default all.')
flags.DEFINE_integer('steps', 6000, 'Of training, for each method.')
flags.DEFINE_integer('seed', 0, 'Of the weights, the batches and the noise.')

RADIUS, SPREAD, MODES = 1.45, 0.2, 5
WIDTH, LAYERS, BATCH, DRAWS = 128, 4, 256, 4096
CALLS = 1, 2, 4
SCHEDULE = dj.RectifiedFlowSchedule()
TIME = dj.time_input(1.0)


def ring():
  """Returns the data, a mixture of five Gaussians on a circle."""
  angles = 2.0 * np.pi * np.arange(MODES) / MODES
  means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
  covs = np.tile(SPREAD**2 * np.eye(2), (MODES, 1, 1))
  return oracles.mixture(np.ones(MODES), means, covs)


DATA = ring()
# Per coordinate: what networks with a boundary condition are told.
DEVIATION = float(np.sqrt(np.trace(np.asarray(DATA.cov)) / 2.0))


def init(key):
  """Returns the layers of the MLP, LeCun-normal, the last one zero."""
  widths = [4] + [WIDTH] * LAYERS + [2]
  keys = jax.random.split(key, len(widths) - 1)
  layers = [
    (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
    for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
  ]
  return {'network': [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]}


def network(params, x, noise, cond, *, key=None):
  """Computes the MLP of x [B, 2], the noise input and the time elapsed."""
  elapsed = (cond or {}).get('elapsed', jnp.zeros_like(noise))
  h = jnp.concatenate([x, noise[:, None], elapsed[:, None]], axis=1)
  for kernel, bias in params[:-1]:
    h = jax.nn.gelu(h @ kernel + bias[None])
  kernel, bias = params[-1]
  return h @ kernel + bias[None]


def exact_teacher(frozen, cond):
  """Returns the best possible denoiser, as a teacher without parameters."""
  return DATA.denoise


def flow_denoiser(params, cond=None):
  """Returns the denoiser of a network of the velocity."""
  return dj.make_denoiser(
    network,
    params['network'],
    parametrization='flow',
    noise_input=TIME,
    cond=cond,
  )


def fit(objective, key, num_steps, params=None, frozen=(), batches=None):
  """Returns the averaged parameters of one training.

  batches: key -> batch, by default draws of the data.
  """
  rate = optax.cosine_decay_schedule(2e-3, num_steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  step = make_train_step(objective, optimizer, ema_decay(0.999))
  init_key, batch_key, step_key = jax.random.split(key, 3)
  state = init_state(init(init_key) if params is None else params, optimizer)

  def draw(key):
    return {'image': DATA.sample(key, BATCH)}

  batches = batches or draw

  def body(state, _):
    batch = batches(jax.random.fold_in(batch_key, state.step))
    return step(state, batch, step_key, frozen)[0], None

  run = jax.jit(lambda state: jax.lax.scan(body, state, length=num_steps)[0])
  return jax.block_until_ready(run(state)).ema_params


# Samplers: params -> (key, x, number of calls) -> x at the clean end.


def by_map(kind):
  """Returns the sampler of a network of `kind`."""

  def sampler(params, key, x, calls):
    flow_map = dj.make_flow_map(
      network,
      params['network'],
      kind=kind,
      noise_input=TIME,
      sigma_data=DEVIATION,
    )
    levels = dj.level_grid(SCHEDULE, calls)
    stochastic = kind != 'average_velocity'
    return dj.sample_map(key, flow_map, levels, x, stochastic)

  return sampler


def by_euler(params, key, x, calls):
  """Samples with Euler steps of the velocity, which are DDIM's."""
  levels = dj.level_grid(SCHEDULE, calls)
  return dj.sample(key, flow_denoiser(params), dj.ddim(), levels, x)


def exact_euler(params, key, x, calls):
  """Samples with Euler steps of the exact velocity."""
  return dj.sample(
    key, DATA.denoise, dj.ddim(), dj.level_grid(SCHEDULE, calls), x
  )


# Methods: (key, number of steps) -> parameters.


def flow_matching(key, steps, **options):
  """Trains the velocity."""
  objective = denoising(
    network,
    SCHEDULE,
    parametrization='flow',
    times=dj.uniform_times,
    weight=dj.flow_weight,
    noise_input=TIME,
  )
  return fit(objective, key, steps, **options)


def mean_flow(key, steps, published=False, **options):
  """Trains MeanFlow at its published times, or with mass at both ends."""
  times = flow_maps.two_times(equal=0.25, start=0.25, end=0.15)
  if published:
    times = flow_maps.two_times(dj.logit_normal_times(-0.4, 1.0), equal=0.75)
  objective = flow_maps.mean_flow(
    network, SCHEDULE, times=times, noise_input=TIME, **options
  )
  return fit(objective, key, steps)


def shortcut(key, steps, **options):
  """Trains a shortcut model."""
  objective = flow_maps.shortcut(network, SCHEDULE, noise_input=TIME, **options)
  return fit(objective, key, steps)


def consistent(key, steps, pairs, teacher=None, **options):
  """Trains a consistency function, by distillation where there is a teacher."""
  options |= {'noise_input': TIME, 'sigma_data': DEVIATION, 'pairs': pairs}
  make = consistency.consistency_training
  if teacher:
    make = consistency.consistency_distillation
    options |= {'teacher': teacher, 'solver': dj.heun()}
  return fit(make(network, SCHEDULE, **options), key, steps)


def easy(steps):
  """Returns ECT's pairs, in eight stages."""
  return consistency.easy_pairs(steps // 8, dj.log_normal_times(0.0, 1.2))


def continuous(key, steps, teacher=None):
  """Trains sCM."""
  objective = consistency.continuous_consistency(
    network,
    SCHEDULE,
    times=dj.log_normal_times(0.0, 1.2),
    teacher=teacher,
    warmup_steps=3 * steps // 10,
    noise_input=TIME,
    sigma_data=DEVIATION,
  )
  return fit(objective, key, steps)


def progressive(key, steps):
  """Halves the steps of a flow-matching network from 16 to 1."""
  stages = 8, 4, 2, 1
  params = flow_matching(key, steps // 2)
  for num_steps in stages:
    objective = distillation.progressive_distillation(
      network,
      SCHEDULE,
      num_steps=num_steps,
      teacher=flow_denoiser,
      solver=dj.ddim(),
      parametrization='flow',
      noise_input=TIME,
    )
    part = steps // 2 // len(stages)
    params = fit(objective, key, part, params, frozen=params)
  return params


@functools.cache
def pool():
  """Returns 65,536 draws of noise and the exact map of each."""
  noise = jax.random.normal(jax.random.key(7), (65536, 2))
  return noise, exact_map(noise)


def reflow(key, steps, times=dj.uniform_times):
  """Trains the velocity on pairs of noise and the exact map of it."""
  noise, image = pool()

  def batches(key):
    index = jax.random.randint(key, (BATCH,), 0, len(noise))
    return {'noise': noise[index], 'image': image[index]}

  objective = distillation.reflow(
    network, SCHEDULE, noise_input=TIME, times=times
  )
  return fit(objective, key, steps, batches=batches)


def at_start(key, batch_size, schedule):
  """Draws t = 1 only, a `TimeSampler`."""
  return schedule(jnp.ones(batch_size)), jnp.ones(batch_size)


VELOCITY, TRIGFLOW = by_map('average_velocity'), by_map('trigflow')
CONSISTENCY = by_map('consistency')
part = functools.partial
METHODS = {
  'noise': ('noise itself', None, lambda params, key, x, calls: x),
  'exact_map': (
    'exact map',
    None,
    lambda params, key, x, calls: exact_map(x),
  ),
  'exact_euler': ('Euler, exact velocity', None, exact_euler),
  'flow_matching': ('flow matching, Euler', flow_matching, by_euler),
  'mean_flow_published': (
    'MeanFlow, published times',
    part(mean_flow, published=True, improved=False),
    VELOCITY,
  ),
  'improved_published': (
    'improved MeanFlow, published times',
    part(mean_flow, published=True),
    VELOCITY,
  ),
  'mean_flow': ('MeanFlow', part(mean_flow, improved=False), VELOCITY),
  'mean_flow_p1': (
    'MeanFlow, p = 1',
    part(mean_flow, improved=False, power=1.0),
    VELOCITY,
  ),
  'improved': ('improved MeanFlow', mean_flow, VELOCITY),
  'shortcut': ('shortcut', shortcut, VELOCITY),
  'shortcut_average': (
    'shortcut, averaged targets',
    part(shortcut, ema_target=True),
    VELOCITY,
  ),
  'ict': (
    'iCT',
    lambda key, steps: consistent(
      key, steps, consistency.improved_pairs(steps, mean=0.0, std=1.2)
    ),
    CONSISTENCY,
  ),
  'ect': (
    'ECT',
    lambda key, steps: consistent(
      key, steps, easy(steps), distance=pseudo_huber(0.0)
    ),
    CONSISTENCY,
  ),
  'cd': (
    'consistency distillation, exact teacher',
    lambda key, steps: consistent(
      key,
      steps,
      easy(steps),
      exact_teacher,
      distance=pseudo_huber(0.0),
    ),
    CONSISTENCY,
  ),
  'sct': ('sCT', continuous, TRIGFLOW),
  'scd': (
    'sCD, exact teacher',
    part(continuous, teacher=exact_teacher),
    TRIGFLOW,
  ),
  'progressive': ('progressive distillation', progressive, by_euler),
  'reflow': ('reflow, exact pairs', reflow, by_euler),
  'regression': (
    'regression on exact pairs',
    part(reflow, times=at_start),
    by_euler,
  ),
}


@jax.jit
def exact_map(noise):
  """Returns the exact map of noise [N, 2] to the clean end."""
  start = SCHEDULE(jnp.ones(()))
  return DATA.flow_map(noise, start, dj.clean_level(), rtol=1e-5, atol=1e-5)


def sliced_wasserstein(a, b, directions=128):
  """Returns the sliced 2-Wasserstein distance of samples [N, 2]."""
  angles = np.pi * np.arange(directions) / directions
  axes = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
  gap = jnp.sort(a @ axes, axis=0) - jnp.sort(b @ axes, axis=0)
  return jnp.sqrt(jnp.mean(gap**2))


def measure(x, exact, data):
  """Returns rel, med and sw2 of samples x [N, 2]."""
  distance = jnp.linalg.norm(x - exact, axis=1) / (DEVIATION * np.sqrt(2.0))
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
  exact, data = exact_map(noise), DATA.sample(data_key, DRAWS)
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

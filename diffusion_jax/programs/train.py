"""--mode=train: from a config to a trained run, continued where it stopped."""

import time

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax.data import images, pipeline
from diffusion_jax.programs import UserError, build, folder, sample
from diffusion_jax.training import checkpoints
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.training.optimizer import ema_decay
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_eval_step, make_train_step


def run(config, workdir):
  """Trains up to training.num_steps; everything it writes is in workdir."""
  c = config.training
  check(config)
  source = build.build_source(config, 'train')
  objective = build.build_objective(config)
  learning_rate = build.build_learning_rate(config)
  optimizer = build.build_optimizer(config)
  make_state, like = state_maker(config, optimizer)
  evaluate = make_evaluate(config, objective)
  preview = make_preview(config)

  # what is there already
  workdir = folder.prepare(workdir)
  manager = checkpoints.open_manager(workdir, c.keep_checkpoints)
  if manager.latest_step() is not None and c.resume != 'force':
    folder.check_same_run(workdir, config)
  try:
    state = checkpoints.restore_latest(manager, like) or make_state()
  except ValueError as error:
    raise UserError(f'{workdir}: {error}') from error
  start = int(state.step)
  describe(config, state, source, workdir)
  if start >= c.num_steps:
    print(
      f'this run is finished: it has {start} of {c.num_steps} steps. '
      'A larger --config.training.num_steps continues it'
    )
    return
  folder.write_config(workdir, config)
  (workdir / 'samples').mkdir(exist_ok=True)
  stored = folder.plain(config)
  writer = MetricWriter(workdir, start)
  writer.write_hparams(stored)

  train_step = jax.jit(
    make_train_step(objective, optimizer, ema_decay(c.ema_decay, c.ema_warmup)),
    donate_argnums=0,
  )
  key = keys(config)[1]
  batches = build.build_batches(config, source, start)
  bar = tqdm(total=c.num_steps, initial=start, unit='step', disable=None)
  history, since, clock = [], start, time.perf_counter()
  try:
    for step in range(start + 1, c.num_steps + 1):
      state, metrics = train_step(state, next(batches), key)
      history.append(metrics)
      bar.update()
      if len(history) > 1:  # reads the previous step while this one runs
        bar.set_postfix(loss=f'{average(history[-2:-1])["loss"]:.4f}')
      if step == start + 1:  # compilation is not counted as training
        since, clock = step, time.perf_counter()

      if due(step, c.log_every, c):
        scalars = average(history)
        scalars['learning_rate'] = float(learning_rate(step - 1))
        if step > since:
          seconds = time.perf_counter() - clock
          scalars['images_per_second'] = (step - since) * c.batch_size / seconds
        writer.write_scalars(step, scalars)
        log(bar, step, scalars)
        history.clear()
      if due(step, config.evaluation.every, c):
        scalars = evaluate(state)
        writer.write_scalars(step, scalars)
        log(bar, step, scalars)
      if due(step, c.sample_every, c):
        sheet = preview(state.ema_params)
        images.write_png(workdir / 'samples' / f'step_{step:08d}.png', sheet)
        writer.write_images(step, {'samples': sheet})
      if due(step, c.checkpoint_every, c):
        checkpoints.save(manager, state, stored)
      if not history:
        since, clock = step, time.perf_counter()
  finally:  # an interrupted run finishes the checkpoint it is writing
    bar.close()
    writer.close()
    manager.close()
  print(f'trained {c.num_steps} steps: {workdir}')


def check(config):
  """UserError for what would only be noticed later, or not at all."""
  if not config.data.name:
    raise UserError(
      'this config has no data set to train on (data.name): '
      'is another --mode meant?'
    )
  if config.training.resume not in ('auto', 'force'):
    raise UserError(
      f'config.training.resume={config.training.resume!r} is not one of auto, '
      'force'
    )
  for field in ('num_steps', 'batch_size', 'keep_checkpoints'):
    if config.training[field] < 1:
      value = config.training[field]
      raise UserError(f'config.training.{field}={value}: at least 1 is needed')
  sample.check(config)


def keys(config):
  """Keys of the run: of the initial parameters, and of the training steps."""
  return jax.random.split(jax.random.key(config.seed))


def state_maker(config, optimizer):
  """(function that makes the first state, its shapes on the device)."""
  with build.from_config('network'):
    init = build.init_params(build.build_network(config), config)

    def make(key):
      return init_state(init(key), optimizer)

    shapes = jax.eval_shape(make, keys(config)[0])
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
  )
  return lambda: jax.jit(make)(keys(config)[0]), like


def make_evaluate(config, objective):
  """state -> the objective's metrics on the test split, with fixed noise."""
  if not config.evaluation.every:
    return None
  source = build.build_source(config, 'test')
  step = jax.jit(make_eval_step(objective))
  size = min(config.training.batch_size, len(source))

  def evaluate(state):
    history = []
    for i in range(config.evaluation.num_batches):
      with build.from_config('data'):
        batch = pipeline.batch_at(source, size, 0, i)
      key = jax.random.fold_in(jax.random.key(0), i)
      history.append(step(state, batch, key))
    return {f'test_{name}': x for name, x in average(history).items()}

  return evaluate


def make_preview(config):
  """EMA parameters -> a sheet of samples, as --mode=sample begins it."""
  if not config.training.sample_every:
    return None
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  labels = sample.choose_labels(config)
  generate = sample.make_generate(config)
  n = min(config.sampling.num_samples, config.sampling.batch_size)
  chosen = None if labels is None else labels[:n]

  def preview(params):
    x = np.asarray(generate(params, np.arange(n), chosen))
    return sample.picture(config, x)

  return preview


def due(step, every, training):
  """Whether it is time for what is done each `every` steps and at the end."""
  return bool(every) and (step % every == 0 or step == training.num_steps)


def average(history):
  """List of {name: Mean} -> {name: float}, NaN where nothing counted."""
  history = jax.device_get(history)
  totals = jax.tree.map(lambda *xs: float(np.sum(xs)), *history)
  return {
    name: mean.total / mean.count if mean.count else float('nan')
    for name, mean in totals.items()
  }


def log(bar, step, scalars):
  """A line of numbers where there is no progress bar to show them."""
  if bar.disable:
    known = {name: x for name, x in scalars.items() if x == x}
    shown = ' '.join(f'{name} {value:.4g}' for name, value in known.items())
    print(f'step {step}: {shown}', flush=True)


def describe(config, state, source, workdir):
  """What is about to happen, in three lines."""
  count = sum(x.size for x in jax.tree.leaves(state.params))
  shape = 'x'.join(map(str, source.image_shape))
  step, total = int(state.step), config.training.num_steps
  devices = f'{jax.device_count()} {jax.devices()[0].device_kind}'
  print(f'devices: {devices}; network: {count:,} parameters')
  print(f'data: {config.data.name}, {len(source):,} images of {shape}')
  print(f'{workdir}: step {step} of {total}')

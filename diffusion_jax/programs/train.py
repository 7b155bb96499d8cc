"""--mode=train: from a config to a trained run, continued where it stopped."""

import time

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax.data import images, pipeline
from diffusion_jax.programs import UserError, build, folder, sample
from diffusion_jax.training import checkpoints
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.training.sharding import (
  fsdp_sharding,
  local_rows,
  replicated,
  to_global,
)
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_eval_step, make_train_step


def run(config, workdir):
  """Trains up to training.num_steps; everything it writes is in workdir."""
  c = config.training
  mesh = build.build_mesh(config)
  check(config, mesh)
  source = build.build_source(config, 'train')
  objective = build.build_objective(config)
  learning_rate = build.build_learning_rate(config)
  optimizer = build.build_optimizer(config)
  ema_decays = build.build_ema_decays(config)
  make_state, like = state_maker(config, optimizer, ema_decays, mesh)
  evaluate = make_evaluate(config, mesh)
  preview = make_preview(config, mesh)

  # what is there already
  workdir = folder.prepare(workdir)
  manager = checkpoints.open_manager(
    workdir,
    c.keep_checkpoints,
    keep_every=c.keep_every,
    keep_best=c.keep_best,
    more_emas=like.more_ema_params,
  )
  state = restore(config, workdir, manager, like) or make_state()
  start = int(state.step)
  describe(config, mesh, state, source, workdir)
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

  step_function = make_train_step(
    objective, optimizer, *ema_decays, c.accumulate
  )
  places = jax.tree.map(lambda x: x.sharding, like)
  train_step = jax.jit(
    step_function, donate_argnums=0, out_shardings=(places, replicated(mesh))
  )
  key = keys(config)[1]
  rows = local_rows(mesh, c.batch_size)
  batches = build.build_batches(config, source, start, rows)
  bar = tqdm(total=c.num_steps, initial=start, unit='step', disable=None)

  def report(step, scalars):
    writer.write_scalars(step, scalars)
    log(bar, step, scalars)

  history, since, clock = [], start, time.perf_counter()
  try:
    for step in range(start + 1, c.num_steps + 1):
      state, metrics = train_step(state, to_global(mesh, next(batches)), key)
      history.append(metrics)
      bar.update()
      if len(history) > 1:  # reads the previous step while this one runs
        previous = average(history[-2:-1])
        check_finite(step - 1, previous, config, workdir, manager)
        bar.set_postfix(loss=f'{previous["loss"]:.4f}')
      if step == start + 1:  # compilation is not counted as training
        since, clock = step, time.perf_counter()
      todo = {name for name, every in events(config) if due(step, every, c)}
      if todo:
        check_finite(step, average(history[-1:]), config, workdir, manager)

      if 'log' in todo:
        scalars = average(history)
        scalars['learning_rate'] = float(learning_rate(step - 1))
        if step > since:
          seconds = time.perf_counter() - clock
          scalars['images_per_second'] = (step - since) * c.batch_size / seconds
        report(step, scalars)
        history.clear()
      test = evaluate(state) if 'evaluate' in todo else None
      if test:
        report(step, test)
      if 'sample' in todo:
        sheet = preview(state.ema_params)
        images.write_png(workdir / 'samples' / f'step_{step:08d}.png', sheet)
        writer.write_images(step, {'samples': sheet})
      if 'save' in todo:
        checkpoints.save(manager, state, stored, test)
      if todo:  # not counted as training either
        since, clock = step, time.perf_counter()
  finally:  # an interrupted run finishes the checkpoint it is writing
    bar.close()
    writer.close()
    manager.close()
  print(f'trained {c.num_steps} steps: {workdir}')


def events(config):
  """(what is done during training, each how many steps); 0 is never."""
  c = config.training
  yield 'log', c.log_every
  yield 'evaluate', config.evaluation.every
  if c.keep_best:  # a checkpoint must know how good it is
    yield 'evaluate', c.checkpoint_every
  if not build.is_classifier(config):
    yield 'sample', c.sample_every
  yield 'save', c.checkpoint_every


def check(config, mesh):
  """UserError for what would only be noticed later, or not at all."""
  c = config.training
  if not config.data.name:
    raise UserError(
      'this config has no data set to train on (data.name): '
      'is another --mode meant?'
    )
  if c.resume not in ('auto', 'force'):
    raise UserError(
      f'config.training.resume={c.resume!r} is not one of auto, force'
    )
  for field in ('num_steps', 'batch_size', 'keep_checkpoints', 'accumulate'):
    if c[field] < 1:
      raise UserError(
        f'config.training.{field}={c[field]}: at least 1 is needed'
      )
  if c.batch_size % (mesh.size * c.accumulate):
    parts = f' in {c.accumulate} parts' if c.accumulate > 1 else ''
    raise UserError(
      f'config.training.batch_size={c.batch_size} cannot be split over the '
      f'{mesh.size} devices of the mesh{parts}: take a multiple of '
      f'{mesh.size * c.accumulate}, or fewer devices by --config.training.mesh'
    )
  if c.keep_every and (
    not c.checkpoint_every or c.keep_every % c.checkpoint_every
  ):
    raise UserError(
      f'config.training.keep_every={c.keep_every} is not a multiple of '
      f'training.checkpoint_every={c.checkpoint_every}'
    )
  sample.check(config)


def restore(config, workdir, manager, like):
  """The run's newest state, None before its first checkpoint."""
  if manager.latest_step() is None:
    return None
  if config.training.resume != 'force':
    folder.check_same_run(workdir, config)
  try:
    return checkpoints.restore_latest(manager, like)
  except ValueError as error:
    raise UserError(f'{workdir}: {error}') from error


def check_finite(step, scalars, config, workdir, manager):
  """UserError if the loss or its gradient is no number any more.

  With optimizer.repair_gradients such a step changes no parameter for the
  worse, and training goes on.
  """
  if config.optimizer.repair_gradients:
    return
  for name in ('loss', 'grad_norm'):
    if not np.isfinite(scalars[name]):
      last = manager.latest_step()
      kept = 'no checkpoint' if last is None else f'checkpoint {last}'
      raise UserError(
        f'{name} is {scalars[name]} at step {step}: stopped, {workdir} keeps '
        f'{kept}. Continue with --config.training.resume=force and a smaller '
        'optimizer.learning_rate or optimizer.clip_norm'
      )


def keys(config):
  """Keys of the run: of the initial parameters, and of the training steps."""
  return jax.random.split(jax.random.key(config.seed))


def state_maker(config, optimizer, ema_decays, mesh):
  """(function that makes the first state, its shapes on the mesh)."""
  with build.from_config('network'):
    init = build.init_params(build.build_network(config), config)

    def make(key):
      memory = build.build_objective_state(config)
      return init_state(init(key), optimizer, memory, ema_decays[1])

    shapes = jax.eval_shape(make, keys(config)[0])
  places = fsdp_sharding(mesh, shapes)
  like = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )
  return lambda: jax.jit(make, out_shardings=places)(keys(config)[0]), like


def make_evaluate(config, mesh):
  """state -> the objective's metrics on the test split, with fixed noise.

  Without dropout in the network and without augmentation.
  """
  if not (config.evaluation.every or config.training.keep_best):
    return None
  source = build.build_source(config, 'test')
  step = jax.jit(make_eval_step(build.build_objective(config, test=True)))
  size = min(config.training.batch_size, len(source))
  size -= size % mesh.size
  if not size:
    raise UserError(
      f'the {len(source)} test images of {config.data.name} are fewer than the '
      f'{mesh.size} devices of the mesh: set evaluation.every=0'
    )
  rows = local_rows(mesh, size)
  length = build.text_length(config)

  def evaluate(state):
    history = []
    for i in range(config.evaluation.num_batches):
      with build.from_config('data'):
        batch = pipeline.batch_at(
          source, size, 0, i, rows=rows, text_length=length
        )
      key = jax.random.fold_in(jax.random.key(0), i)
      history.append(step(state, to_global(mesh, batch), key))
    return {f'test_{name}': x for name, x in average(history).items()}

  return evaluate


def make_preview(config, mesh):
  """EMA parameters -> a sheet of samples, as --mode=sample begins it."""
  if not config.training.sample_every:
    return None
  if build.is_classifier(config):
    print('no samples while it trains: a classifier makes no images')
    return None
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  told = sample.choose_images(config)
  labels = sample.choose_labels(config) if told is None else told.labels
  given = None if told is None else told.image
  n = min(config.sampling.num_samples, config.sampling.batch_size)
  text = sample.encode_texts(config, sample.choose_texts(config, n))
  generate = sample.make_generate(config, mesh)
  inputs = *sample.rows((labels, given), slice(n)), text

  def preview(params):
    x = generate(params, np.arange(n), *inputs)
    return sample.picture(config, x, told)

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


def describe(config, mesh, state, source, workdir):
  """What is about to happen, in three lines."""
  count = sum(x.size for x in jax.tree.leaves(state.params))
  shape = 'x'.join(map(str, source.image_shape))
  step, total = int(state.step), config.training.num_steps
  data, fsdp = mesh.shape.values()
  devices = f'{data}x{fsdp} {jax.devices()[0].device_kind} (data x fsdp)'
  print(f'devices: {devices}; network: {count:,} parameters')
  print(f'data: {config.data.name}, {len(source):,} images of {shape}')
  print(f'{workdir}: step {step} of {total}')

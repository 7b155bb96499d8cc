"""--mode=train: from a config to a trained run, continued where it stopped."""

import contextlib
import json

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax import build
from diffusion_jax.build.make import choose
from diffusion_jax.build.network import check_heights
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images, pipeline
from diffusion_jax.errors import Preempted, UserError
from diffusion_jax.families import latent
from diffusion_jax.programs import sample
from diffusion_jax.runs import lock, processes, run_folder, sample_inputs
from diffusion_jax.runs.step_log import StepLog, average
from diffusion_jax.training import checkpoints, preemption
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.training.sharding import (
  fsdp_sharding,
  local_rows,
  replicate,
  replicated,
  to_global,
)
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_eval_step, make_train_step


def run(config, workdir):
  """Trains up to training.num_steps; everything it writes is in workdir.

  Asked to stop, it saves and raises Preempted.
  """
  try:
    with preemption.watch() as stop, contextlib.ExitStack() as held:
      train(config, workdir, stop, held)
  except OSError as error:  # a full disk, most of all
    raise UserError(
      f'{error}. When that is mended, the same command continues'
    ) from error


def train(config, workdir, stop, held):
  """The run; stop: step -> whether to save and leave.

  held: the ExitStack that keeps the lock of the workdir.
  """
  c = config.training
  mesh = build.build_mesh(config)
  check(config, mesh)
  source = build.build_source(config, 'train')
  objective = build.build_objective(config)
  learning_rate = build.build_learning_rate(config)
  optimizer = build.build_optimizer(config)
  ema_decays = build.build_ema_decays(config)
  make_state, like = state_maker(config, optimizer, ema_decays, mesh)
  latents = latent.build(config, workdir)
  encode = latent.make_encode(config, latents, mesh)
  evaluate = make_evaluate(config, mesh, latents)
  preview = make_preview(config, mesh, latents)

  # what is there already
  workdir = run_folder.prepare(workdir)
  held.enter_context(lock.hold(workdir))
  if c.resume != 'force':
    run_folder.check_same_run(workdir, config)
  manager = open_manager(config, workdir, like)
  state = restore(workdir, manager, like) or make_state()
  frozen = latent.prepare(config, workdir, latents, source, mesh)
  frozen = replicate(mesh, frozen)
  start = int(state.step)
  describe(config, mesh, state, source, workdir)
  if start >= c.num_steps:
    print(
      f'this run is finished: it has {start} of {c.num_steps} steps. '
      'A larger --config.training.num_steps continues it'
    )
    return
  first = processes.is_first()  # of several processes one writes
  if first:
    run_folder.write_config(workdir, config)
    (workdir / 'samples').mkdir(exist_ok=True)
  stored = run_folder.plain(config)
  writer = MetricWriter(workdir, start, first)
  text = f'```\n{json.dumps(stored, indent=2)}\n```'
  writer.write_texts(start, {'config': text})
  writer.write_hparams(run_folder.hparams(stored))

  step_function = make_train_step(
    objective, optimizer, *ema_decays, c.accumulate, c.skip_nonfinite > 0
  )
  places = jax.tree.map(lambda x: x.sharding, like)
  train_step = jax.jit(
    step_function, donate_argnums=0, out_shardings=(places, replicated(mesh))
  )
  key = stream(config.seed, 'training')
  latents_key = stream(config.seed, 'latents')
  rows = local_rows(mesh, c.batch_size)
  batches = build.build_batches(config, source, start, rows)
  bar = tqdm(total=c.num_steps, initial=start, unit='step', disable=None)
  log = StepLog(config, workdir, manager, writer, bar, start)
  with contextlib.ExitStack() as ends:
    # an interrupted run finishes the checkpoint it is writing
    ends.callback(checkpoints.finish, manager)
    ends.callback(writer.close)
    ends.callback(bar.close)
    for step in range(start + 1, c.num_steps + 1):
      if stop(step - 1):
        log.read()
        if step - 1 > start:
          checkpoints.save(manager, state, stored)
        saved = 'saved' if step > 1 else 'nothing to save yet'
        raise Preempted(
          f'stopped by SIGTERM at step {step - 1}, {saved}; the same command '
          'continues'
        )
      batch = to_global(mesh, next(batches))
      batch = encode(frozen, batch, latents_key, step - 1)
      state, metrics = train_step(state, batch, key)
      log.add(step, metrics)
      todo = {name for name, every in events(config) if due(step, every, c)}
      log.read(0 if todo else 1)  # else the previous step, while this one runs
      checkpoints.check_written(manager)

      if 'log' in todo:
        log.write_line(step, learning_rate(step - 1))
      test = evaluate(state, frozen) if 'evaluate' in todo else None
      if test:
        log.write(step, test)
      if 'sample' in todo:
        sheet = preview(state.ema_params | frozen)
        if first:
          path = workdir / 'samples' / f'step_{step:08d}.png'
          images.write_png(path, sheet)
        writer.write_images(step, {'samples': sheet})
      if 'save' in todo:
        checkpoints.save(manager, state, stored, test)
      if todo:
        log.go_on(step)
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
  choose(('auto', 'force'), 'training', 'resume', c.resume)
  check_heights(config)
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
  if c.skip_nonfinite and config.optimizer.repair_gradients:
    raise UserError(
      'training.skip_nonfinite leaves out a step that '
      'optimizer.repair_gradients would take with other gradients: only one of '
      'the two can be on'
    )


def open_manager(config, workdir, like):
  """The run's checkpoints; UserError if none of those there is good."""
  c = config.training
  try:
    return checkpoints.open_manager(
      workdir,
      c.keep_checkpoints,
      keep_every=c.keep_every,
      keep_best=c.keep_best,
      more_emas=like.more_ema_params,
    )
  except ValueError as error:
    raise UserError(str(error)) from error


def restore(workdir, manager, like):
  """The run's newest state, None where it has no checkpoint."""
  if manager.latest_step() is None:
    if run_folder.read_config(workdir) is not None:
      print(
        f'{workdir} has a config.json but no checkpoint: it begins at step 0'
      )
    return None
  try:
    return checkpoints.restore_latest(manager, like)
  except ValueError as error:
    raise UserError(f'{workdir}: {error}') from error


def state_maker(config, optimizer, ema_decays, mesh):
  """(function that makes the first state, its shapes on the mesh)."""
  key = stream(config.seed, 'parameters')
  with build.from_config('network'):
    init = build.init_params(build.build_network(config), config)

    def make(key):
      memory = build.build_objective_state(config)
      return init_state(init(key), optimizer, memory, ema_decays[1])

    shapes = jax.eval_shape(make, key)
  places = fsdp_sharding(mesh, shapes)
  like = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )
  return lambda: jax.jit(make, out_shardings=places)(key), like


def make_evaluate(config, mesh, latents=latent.PIXELS):
  """(state, frozen) -> the objective's metrics on the test split, fixed noise.

  Without dropout in the network and without augmentation.
  """
  if not (config.evaluation.every or config.training.keep_best):
    return None
  source = build.build_source(config, 'test')
  step = jax.jit(
    make_eval_step(build.build_objective(config, test=True)),
    out_shardings=replicated(mesh),
  )
  size = min(config.training.batch_size, len(source))
  size -= size % mesh.size
  if not size:
    raise UserError(
      f'the {len(source)} test images of {config.data.name} are fewer than the '
      f'{mesh.size} devices of the mesh: set evaluation.every=0'
    )
  rows = local_rows(mesh, size)
  length = build.text_length(config)
  encode = latent.make_encode(config, latents, mesh)
  # of no seed, so that runs of several seeds can be compared
  key, latents_key = stream(0, 'test_loss'), stream(0, 'test_latents')

  def evaluate(state, frozen=None):
    history = []
    for i in range(config.evaluation.num_batches):
      with build.from_config('data'):
        batch = pipeline.batch_at(
          source, size, 0, i, rows=rows, text_length=length
        )
      batch = encode(frozen, to_global(mesh, batch), latents_key, i)
      history.append(step(state, batch, jax.random.fold_in(key, i)))
    return {f'test_{name}': x for name, x in average(history).items()}

  return evaluate


def make_preview(config, mesh, latents=latent.PIXELS):
  """(EMA and frozen parameters) -> samples as --mode=sample begins them."""
  if not config.training.sample_every:
    return None
  if build.is_classifier(config):
    print('no samples while it trains: a classifier makes no images')
    return None
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  told = sample_inputs.choose_images(config)
  labels = sample_inputs.choose_labels(config) if told is None else told.labels
  given = None if told is None else told.image
  n = min(config.sampling.num_samples, config.sampling.batch_size)
  text = sample_inputs.encode_texts(
    config, sample_inputs.choose_texts(config, n)
  )
  generate = sample.make_generate(config, mesh, latents)
  inputs = *sample.rows((labels, given), slice(n)), text

  def preview(params):
    x = generate(params, np.arange(n), *inputs)
    return sample.picture(config, x, told)

  return preview


def due(step, every, training):
  """Whether it is time for what is done each `every` steps and at the end."""
  return bool(every) and (step % every == 0 or step == training.num_steps)


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

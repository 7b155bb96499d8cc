"""Implements --mode=train: trains, or continues a run where it stopped."""

import contextlib
import functools
import itertools
import json
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax import build, families
from diffusion_jax.build.make import choose, near
from diffusion_jax.build.network import check_heights
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images, pipeline
from diffusion_jax.errors import Preempted, UserError
from diffusion_jax.families.family import IDENTITY
from diffusion_jax.programs import evaluate_samples, report, sample
from diffusion_jax.runs import (
  calls,
  first_weights,
  lock,
  measures,
  prerequisites,
  processes,
  run_folder,
  sample_inputs,
  sessions,
  snapshots,
)
from diffusion_jax.runs.per_image import one_ahead, rows
from diffusion_jax.runs.rehearsal import rehearse
from diffusion_jax.runs.start_up import StartUp
from diffusion_jax.runs.step_log import StepLog, average
from diffusion_jax.training import checkpoints, preemption
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.runtime.sharding import (
  fsdp_sharding,
  local_rows,
  on_mesh,
  replicate,
  replicated,
  to_global,
)
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import (
  make_eval_step,
  make_train_step,
  make_train_steps,
)


def run(config, workdir):
  """Trains up to training.num_steps; everything it writes is in workdir.

  After SIGTERM it saves and raises Preempted.
  """
  try:
    with preemption.watch() as stop, contextlib.ExitStack() as resources:
      if not train(config, workdir, stop, resources):
        return
  except OSError as error:  # a full disk, most of all
    raise UserError(
      f'{error}. When that is mended, the same command continues'
    ) from error
  report.after_training(config, workdir)


def train(config, workdir, stop, resources):
  """Trains without `run`'s handling of signals and full disks.

  stop: as of `preemption.watch`; resources: an ExitStack, to which the lock of
  the workdir is added. Returns whether there was a step to do.
  """
  c = config.training
  begun = StartUp()
  prerequisites.check_training(config, workdir)
  mesh = build.build_mesh(config)
  family = families.of(config)
  check(config, mesh)
  source = build.build_source(config, 'train')
  begun.mark('data')
  objective = family.objective(config)
  learning_rate = jax.jit(build.build_learning_rate(config))
  optimizer = build.build_optimizer(config)
  ema_decays = build.build_ema_decays(config)
  make_state, shapes = state_maker(
    config, objective, optimizer, ema_decays, mesh
  )
  latents = family.latents(config, workdir)
  encode = family.make_encode(config, latents, mesh)
  kept = family.kept_shapes(config, latents)
  evaluate = make_evaluate(config, mesh, latents, shapes, kept)
  params = shapes.ema_params | kept
  measure = make_measure(config, mesh, latents, params)
  preview = make_preview(config, mesh, latents, params)
  begun.mark('tracing')

  # From here on the run folder is read and written.
  workdir = run_folder.prepare(workdir)
  resources.enter_context(lock.hold(workdir))
  if c.resume != 'force':
    run_folder.check_same_run(workdir, config)
  manager = open_manager(config, workdir, shapes)
  state = restore(workdir, manager, shapes)
  if state is None:
    state = make_state()
    if c.init_from:
      state = first_weights.begin(state, c.init_from)
  kept = family.prepare(config, workdir, latents, source, mesh)
  kept = replicate(mesh, kept)  # parameters that are not trained
  start = int(state.step)
  describe(config, mesh, state, source, workdir)
  if start >= c.num_steps:
    print(
      f'this run is finished: it has {start} of {c.num_steps} steps. '
      'A larger --config.training.num_steps continues it'
    )
    return False
  first = processes.is_first()  # of several processes one writes
  if first:
    run_folder.write_config(workdir, config)
    (workdir / 'samples').mkdir(exist_ok=True)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    sessions.write_start(workdir, start, parameters)
  stored = run_folder.plain(config)
  writer = MetricWriter(workdir, start, first)
  text = f'```\n{json.dumps(stored, indent=2)}\n```'
  writer.write_texts(start, {'config': text})
  writer.write_hparams(run_folder.hparams(stored))

  seen = None
  if c.ema_sigma_rels:
    seen = snapshots.begin(workdir, start, c.batch_size)
    ema_decays = build.build_ema_decays(config, seen.more_steps)
  advance = make_advance(config, objective, optimizer, ema_decays, shapes, mesh)
  latents_key = stream(config.seed, 'latents')
  local = local_rows(mesh, c.batch_size)
  batches = build.build_batches(config, source, start, local)
  begun.mark('state')

  def take(step):
    # Batches on their devices, of the steps from `step` on of one call.
    return [
      encode(kept, to_global(mesh, next(batches)), latents_key, i)
      for i in range(step, calls.end_of_call(config, step))
    ]

  bar = tqdm(total=c.num_steps, initial=start, unit='step', disable=None)
  log = StepLog(config, workdir, manager, writer, bar, start)
  with contextlib.ExitStack() as ends:
    # An interrupted run finishes the checkpoint that it is writing.
    ends.callback(checkpoints.finish, manager)
    ends.callback(writer.close)
    ends.callback(bar.close)
    before, following = start, None
    for number in itertools.count():
      if stop(number):
        log.read()
        if before > start:
          checkpoints.save(manager, state, stored)
        saved = 'saved' if before else 'nothing to save yet'
        raise Preempted(
          f'stopped by SIGTERM at step {before}, {saved}; the same command '
          'continues'
        )
      taken = following or take(before)
      begun.mark('batch')
      step = before + len(taken)
      state, metrics = advance(state, taken, kept)
      begun.mark('compilation')
      log.add(range(before + 1, step + 1), metrics)
      todo = calls.due(config, step)
      # While the devices compute, the next batches are put on them. Not before
      # something that is due: a damaged file must not prevent a save.
      following = None if todo else take(step)
      if before == start:
        jax.block_until_ready(metrics)
        begun.mark(f'{len(taken)} steps' if len(taken) > 1 else '1 step')
        tqdm.write(str(begun))
      log.read(0 if todo else 1)  # else the previous call, while this one runs
      checkpoints.check_written(manager)

      if 'log' in todo:
        log.write_line(step, learning_rate(step - 1))
      if seen and 'snapshot' in todo:  # before the checkpoint of this step
        averages = state.more_ema_params
        snapshots.write(workdir, step, seen.images_at(step), averages)
        snapshots.thin(workdir, step, c.snapshot_every, c.keep_snapshots)
      # The steps are saved before what may fail. With keep_best a checkpoint
      # has a criterion, and is saved without if that cannot be computed.
      save = functools.partial(checkpoints.save, manager, state, stored)
      if 'save' in todo and not c.keep_best:
        save()
      test = {}
      try:
        if evaluate and 'evaluate' in todo:
          test |= evaluate(state, kept)
        if measure and 'measure' in todo:
          test |= measure(state.ema_params | kept)
      except Exception:
        # Several processes save together, and the others may not fail.
        if 'save' in todo and c.keep_best and not processes.started():
          save()
        raise
      if 'save' in todo and c.keep_best:
        save(with_criterion(config, test))
      if test:
        log.write(step, test)
      if preview and 'sample' in todo:
        sheet = preview(state.ema_params | kept)
        if first:
          path = workdir / 'samples' / f'step_{step:08d}.png'
          images.write_png(path, sheet)
        writer.write_images(step, {'samples': sheet})
      if todo:
        log.restart_clock(step)
      if step == c.num_steps:
        break
      before = step
  if first:
    sessions.write_end(workdir, c.num_steps)
  print(f'trained {c.num_steps} steps: {workdir}')
  return True


def make_advance(config, objective, optimizer, ema_decays, shapes, mesh):
  """Returns (state, batches, kept) -> (state, metrics), a step for each batch.

  shapes: of the state, as of `state_maker`. The state is donated. kept:
  parameters that are not trained. Leaves of metrics are [], or with
  training.steps_per_call above 1 [steps_per_call].
  """
  c = config.training
  key = stream(config.seed, 'training')
  step = make_train_step(
    objective,
    optimizer,
    *ema_decays,
    accumulate=c.accumulate,
    skip_nonfinite=c.skip_nonfinite > 0,
  )
  places = jax.tree.map(lambda x: x.sharding, shapes)
  compiled: Any = jax.jit(
    on_mesh(mesh, step if c.steps_per_call == 1 else make_train_steps(step)),
    donate_argnums=0,
    out_shardings=(places, replicated(mesh)),
  )

  def advance(state, batches, kept=None):
    if c.steps_per_call == 1:
      return compiled(state, batches[0], key, kept)
    # One program, of a stack of one length, whose last rows may be unused.
    unused = [batches[-1]] * (c.steps_per_call - len(batches))
    return compiled(state, (*batches, *unused), key, len(batches), kept)

  return advance


def check(config, mesh):
  """Raises UserError for what would be noticed later, or not at all."""
  c = config.training
  families.of(config).check(config)
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
  widths = c.ema_sigma_rels or ()
  if widths and not c.snapshot_every:
    raise UserError(
      'config.training.ema_sigma_rels needs snapshots: set '
      'training.snapshot_every, to num_steps / 32 = '
      f'{max(c.num_steps // 32, 1)}, for instance'
    )
  if len(set(map(float, widths))) < len(widths):
    raise UserError(
      f'config.training.ema_sigma_rels={widths}: a width is there twice'
    )
  if c.skip_nonfinite and config.optimizer.repair_gradients:
    raise UserError(
      'training.skip_nonfinite leaves out a step that '
      'optimizer.repair_gradients would take with other gradients: only one of '
      'the two can be on'
    )


def open_manager(config, workdir, shapes):
  """Opens the run's checkpoints; UserError if all of them are damaged."""
  c = config.training
  try:
    return checkpoints.open_manager(
      workdir,
      c.keep_checkpoints,
      keep_every=c.keep_every,
      keep_best=c.keep_best,
      more_emas=shapes.more_ema_params,
    )
  except ValueError as error:
    raise UserError(str(error)) from error


def restore(workdir, manager, shapes):
  """Reads the run's newest state; None where it has no checkpoint."""
  if manager.latest_step() is None:
    if run_folder.read_config(workdir) is not None:
      print(
        f'{workdir} has a config.json but no checkpoint: it begins at step 0'
      )
    return None
  try:
    return checkpoints.restore_latest(manager, shapes)
  except ValueError as error:
    raise UserError(f'{workdir}: {error}') from error


def state_maker(config, objective, optimizer, ema_decays, mesh):
  """Returns (function that makes the first state, its shapes on the mesh)."""
  key = stream(config.seed, 'parameters')
  with build.from_config('network'):
    init = families.of(config).init(config)

    def make(key):
      return init_state(init(key), optimizer, objective.init(), ema_decays[1])

    shapes = jax.eval_shape(make, key)
  places = fsdp_sharding(mesh, shapes)
  shapes = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )
  return lambda: jax.jit(make, out_shardings=places)(key), shapes


def make_evaluate(config, mesh, latents=IDENTITY, shapes=None, kept=None):
  """Returns (state, kept) -> the objective's metrics on the test split.

  With fixed noise, without dropout and augmentation; kept: parameters that are
  not trained. None if the config has no evaluation during training. shapes: of
  the state, and of `kept`, with which it is rehearsed.
  """
  c = config.training
  if not (c.evaluate_every or c.keep_best and c.keep_best_by == 'test_loss'):
    return None
  source: Any = build.build_source(config, 'test')
  step = make_eval_step(families.of(config).objective(config, test=True))
  step = jax.jit(
    on_mesh(mesh, step),
    out_shardings=replicated(mesh),
  )
  size = min(config.training.batch_size, len(source))
  size -= size % mesh.size
  if not size:
    raise UserError(
      f'the {len(source)} test images of {config.data.name} are fewer than the '
      f'{mesh.size} devices of the mesh: set training.evaluate_every=0'
    )
  local = local_rows(mesh, size)
  length = build.text_length(config)
  encode = families.of(config).make_encode(config, latents, mesh)
  # No seed of the config is used, so that runs of several can be compared.
  key, latents_key = stream(0, 'test_loss'), stream(0, 'test_latents')

  def losses(state, kept, i):
    with build.from_config('data'):
      batch = pipeline.batch_at(
        source, size, 0, i, rows=local, text_length=length
      )
    batch = encode(kept, to_global(mesh, batch), latents_key, i)
    return step(state, batch, jax.random.fold_in(key, i), kept)

  def evaluate(state, kept=None):
    count = config.training.evaluate_batches
    history = [losses(state, kept, i) for i in range(count)]
    return {f'test_{name}': x for name, x in average(history).items()}

  if shapes is not None:
    what, field = 'the loss of test images', 'training.evaluate_every'
    first = functools.partial(losses, i=0)
    rehearse(what, field, first, shapes, kept)
  return evaluate


def make_measure(config, mesh, latents=IDENTITY, shapes=None):
  """Returns params -> {name: score} of training.metrics_images samples.

  params, shapes: as of `make_preview`. None without metrics during training.
  """
  c = config.training
  if not (c.metrics_every or c.keep_best and c.keep_best_by != 'test_loss'):
    return None
  family = families.of(config)
  names = measures.signs(config) if family.makes_images else {}
  if not names:
    raise UserError(
      'training.metrics_every and training.keep_best_by are about generated '
      'images: name a metric of them in config.evaluation.metrics, as fid'
    )
  if c.keep_best and c.keep_best_by not in ('test_loss', *names):
    raise UserError(
      f'config.training.keep_best_by={c.keep_best_by!r}'
      f'{near(c.keep_best_by, ("test_loss", *names))} is not one of '
      f'test_loss, {", ".join(names)}'
    )
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  n, size = c.metrics_images, config.sampling.batch_size
  cond = sample_inputs.choose(config, n).cond
  generate = family.generate(config, mesh, latents)
  score = evaluate_samples.make_measure(config)

  def begin(params, start):
    index = np.arange(start, start + min(size, n))  # one compilation
    return generate.start(params, index, rows(cond, index % n))

  def measure(params):
    parts = [
      images.to_uint8(x, config.data.num_levels)
      for _, x in one_ahead(functools.partial(begin, params), range(0, n, size))
    ]
    pictures = np.concatenate(parts)[:n]
    return score(pictures, cond.get('label'))

  if shapes is not None:
    first = functools.partial(begin, start=0)
    rehearse('a sample', 'training.metrics_every', first, shapes)
  return measure


def with_criterion(config, test):
  """Returns the metrics of a checkpoint, with the one that keeps the best."""
  name = config.training.keep_best_by
  if name not in test:
    return test or None
  sign = 1.0 if name == 'test_loss' else measures.signs(config)[name]
  return test | {checkpoints.CRITERION: sign * test[name]}


def make_preview(config, mesh, latents=IDENTITY, shapes=None):
  """Returns params -> a sheet of the first samples of --mode=sample.

  params: averages, and what the family keeps beside; shapes: theirs, with which
  it is rehearsed. None if there are no previews.
  """
  if not config.training.sample_every:
    return None
  family = families.of(config)
  if not family.makes_images:
    print(f'no samples while it trains: {family.name} makes no images')
    return None
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  n = min(config.sampling.num_samples, config.sampling.batch_size)
  cond, _, conditions = sample_inputs.choose(config, n)
  generate = family.generate(config, mesh, latents)

  def begin(params):
    return generate.start(params, np.arange(n), cond)

  def preview(params):
    return sample.picture(config, begin(params)(), conditions)

  if shapes is not None:
    rehearse('the preview', 'training.sample_every', begin, shapes)
  return preview


def describe(config, mesh, state, source, workdir):
  """Prints devices, data and progress of the run in three lines."""
  count = sum(x.size for x in jax.tree.leaves(state.params))
  shape = 'x'.join(map(str, source.image_shape))
  step, total = int(state.step), config.training.num_steps
  data, fsdp = mesh.shape.values()
  devices = f'{data}x{fsdp} {jax.devices()[0].device_kind} (data x fsdp)'
  print(f'devices: {devices}; network: {count:,} parameters')
  print(f'data: {config.data.name}, {len(source):,} images of {shape}')
  print(f'{workdir}: step {step} of {total}')

"""A running training, and how it begins or continues."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
from orbax.checkpoint import CheckpointManager
from tqdm import tqdm

from diffusion_jax.app import ema, images
from diffusion_jax.app.config import own
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.models.model import Params
from diffusion_jax.app.modes import hooks
from diffusion_jax.app.modes.hooks import Hook
from diffusion_jax.app.modes.train_setup import Setup, make_advance
from diffusion_jax.app.run import folder
from diffusion_jax.app.run.step_log import StepLog
from diffusion_jax.core.keys import stream
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import cache, processes, sessions
from diffusion_jax.runtime.compiling import announced
from diffusion_jax.runtime.files import make_folder, write_json
from diffusion_jax.runtime.sharding import local_rows, replicate, to_global
from diffusion_jax.training import checkpoints, first_weights, snapshots
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.training.state import TrainState


@dataclasses.dataclass
class Run:
  """A running training: its state, and the files that it writes.

  frozen: parameters that are not trained; start: the step it continues from;
  stored: the config, in JSON's types; seen: the number of images so far, for
  averages by a power of time; results: the metrics that hooks have measured at
  this step; ahead: the programs of hooks that compile in a thread.
  """

  parts: Setup
  state: TrainState
  frozen: Params
  start: int
  manager: CheckpointManager
  writer: MetricWriter
  log: StepLog
  bar: tqdm
  compute: Callable
  batches: Iterator[dict]
  stored: dict
  seen: snapshots.Batches | None
  results: dict[str, float] = dataclasses.field(default_factory=dict)
  ahead: dict[str, Future] = dataclasses.field(default_factory=dict)

  def take(self, step: int) -> list[dict]:
    """Returns the batches of the next call, after `step`, on the devices."""
    key = stream(self.parts.config.seed, 'latents')
    end = hooks.end_of_call(self.parts.config, self.parts.hooks, step)
    return [
      self.parts.encode(
        self.frozen, to_global(self.parts.mesh, next(self.batches)), key, i
      )
      for i in range(step, end)
    ]

  def advance(self, step: int, batches: list[dict]) -> None:
    """Dispatches the steps after `step`, one for each batch."""
    start_up = self.parts.start_up
    start_up.mark('batch')
    cache.seconds.clear()
    self.state, metrics = self.compute(self.state, step, batches, self.frozen)
    start_up.mark('tracing the step', *cache.source())
    self.log.add(range(step + 1, step + 1 + len(batches)), metrics)
    if step == self.start:
      self.ahead = self.compile_ahead()
      jax.block_until_ready(metrics)
      n = len(batches)
      start_up.mark(f'{n} steps' if n > 1 else '1 step')
      tqdm.write(str(start_up))

  def compile_ahead(self) -> dict[str, Future]:
    """Starts to compile the programs of the hooks, in a thread of its own.

    Several processes must compile in the same order, and do without it.
    """
    if not self.parts.config.training.compile_ahead or processes.started():
      return {}
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.format),
      self.state,
    )
    pool = ThreadPoolExecutor(1)
    futures = {
      hook.what[0]: pool.submit(hook.compile, shapes, self.frozen)
      for hook in self.parts.hooks
      if hook.compile is not None
    }
    pool.shutdown(wait=False)
    return futures

  def act(self, step: int, due: list[Hook]) -> None:
    """Runs the hooks that are due after a step, in order.

    If a hook fails, a checkpoint that waits for a metric is saved anyway, but
    not with several processes, because they can only save together.
    """
    checkpoints.check_written(self.manager)
    self.results = {}
    try:
      for hook in due:
        if (future := self.ahead.pop(hook.what[0], None)) is not None:
          with announced(hook.what[0]):
            future.result()
        hook.act(step, self)
    except Exception:
      if (
        any(hook.act is hooks.save for hook in due) and not processes.started()
      ):
        self.save()
      raise
    if due:
      self.log.restart_clock(step)

  def save(self, metrics: dict | None = None) -> None:
    """Starts writing a checkpoint of the state."""
    checkpoints.save(self.manager, self.state, self.stored, metrics)

  def interrupt(self, step: int, why: str) -> str:
    """Saves after a signal, and returns a message; why: the signal."""
    self.log.read()
    if step > self.start:
      self.save()
    saved = 'saved' if step else 'nothing to save yet'
    return (
      f'stopped by {why} at step {step}, {saved}; the same command continues'
    )

  @contextlib.contextmanager
  def open(self) -> Iterator[None]:
    """Finishes all files when the training ends, also after an error."""
    with contextlib.ExitStack() as ends:
      ends.callback(checkpoints.finish, self.manager)
      ends.callback(self.writer.close)
      ends.callback(self.bar.close)
      yield
    if processes.is_first():
      sessions.write_end(self.parts.workdir, int(self.state.step))


def begin(parts: Setup) -> Run | None:
  """Restores or makes the state, and opens the files of a training.

  Returns None for a run that has all of its steps.
  """
  config, model, mesh = parts.config, parts.model, parts.mesh
  c = config.training
  workdir = parts.workdir
  if c.resume != 'force':
    folder.check_same_run(workdir, config, model.facts)
  manager = open_manager(config, workdir, parts.shapes)
  state = restore(workdir, manager, parts.shapes)
  if state is None:
    state = parts.make_state()
    if c.init_from:
      state = first_weights.begin(state, c.init_from)
  frozen = replicate(mesh, model.prepare(parts.source, mesh))
  start = int(state.step)
  describe(parts, state)
  if start >= c.num_steps:
    print(
      f'this run is finished: it has {start} of {c.num_steps} steps. '
      'A larger --config.training.num_steps continues it'
    )
    return None
  stored = folder.stored_form(config, model.facts)
  own.remember(workdir, config)
  first = processes.is_first()  # of several processes one writes
  if first:
    write_json(workdir / 'config.json', stored)
    make_folder(workdir, 'samples')
    count = sum(x.size for x in jax.tree.leaves(state.params))
    sessions.write_start(workdir, start, count)
  writer = MetricWriter(workdir, start, first)
  text = f'```\n{json.dumps(stored, indent=2)}\n```'
  writer.write_texts(start, {'config': text})
  writer.write_hparams(folder.hparams(stored))
  seen = None
  if c.ema_sigma_rels:
    seen = snapshots.begin(workdir, start, c.batch_size)
  compute = make_advance(parts, seen.more_steps if seen else 0.0)
  bar = tqdm(total=c.num_steps, initial=start, unit='step', disable=None)
  log = StepLog(config, workdir, manager, writer, bar, start)
  rows = local_rows(mesh, c.batch_size)
  batches = images.batches(config, parts.source, start, rows)
  parts.start_up.mark('state')
  return Run(
    parts, state, frozen, start, manager, writer, log, bar, compute, batches,
    stored, seen,
  )  # fmt: skip


def open_manager(
  config: Node, workdir: Path, shapes: TrainState
) -> CheckpointManager:
  """Opens the run's checkpoints; raises UserError if all are damaged."""
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


def restore(
  workdir: Path, manager: CheckpointManager, shapes: TrainState
) -> TrainState | None:
  """Reads the run's newest state; returns None without a checkpoint."""
  if manager.latest_step() is None:
    if folder.read_config(workdir) is not None:
      print(
        f'{workdir} has a config.json but no checkpoint: it begins at step 0'
      )
    return None
  try:
    return checkpoints.restore_latest(manager, shapes)
  except ValueError as error:
    raise UserError(f'{workdir}: {error}') from error


def describe(parts: Setup, state: TrainState) -> None:
  """Prints devices, data and progress of the run, a line each."""
  config, source = parts.config, parts.source
  count = sum(x.size for x in jax.tree.leaves(state.params))
  shape = 'x'.join(map(str, source.image_shape))
  data, fsdp = parts.mesh.shape.values()
  devices = f'{data}x{fsdp} {jax.devices()[0].device_kind} (data x fsdp)'
  step, total = int(state.step), config.training.num_steps
  print(f'devices: {devices}; network: {count:,} parameters')
  tests = max((hook.test_images for hook in parts.hooks), default=0)
  data = f'{config.data.name}, {len(source):,} images of {shape}'
  data += f', {parts.model.facts.num_classes or "no"} classes'
  print(f'data: {data}' + (f', {tests:,} test images' if tests else ''))
  print(f'{parts.workdir}: step {step} of {total}')
  if step < total and (warning := ema.warning(config)):
    print(warning)

"""Implements --mode=train: trains, or continues a run where it stopped."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from orbax.checkpoint import CheckpointManager
from tqdm import tqdm

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets, trained_on
from diffusion_jax.app.inputs.datasets import held_out
from diffusion_jax.app.kinds import other_runs, roles
from diffusion_jax.app.modes import report
from diffusion_jax.app.train import hooks, setup
from diffusion_jax.app.train.hooks import Hook
from diffusion_jax.app.train.setup import Setup
from diffusion_jax.app.train.step_log import StepLog
from diffusion_jax.errors import Preempted, as_user_error
from diffusion_jax.planning import programs
from diffusion_jax.report.record import read_curves
from diffusion_jax.runtime import compiling, hosts, processes, profiling, run_folder, sessions
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import local_rows, replicate, to_global
from diffusion_jax.runtime.start_up import unused_by_training
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training import preemption
from diffusion_jax.training.loggers import MetricWriter
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import averages, checkpoints, load


def main(config: Node, workdir: RunFolder) -> None:
  """Trains up to training.num_steps; writes into workdir only.

  After SIGTERM it saves and raises Preempted, after Ctrl-C KeyboardInterrupt.
  """
  with preemption.watch() as stop:
    parts = setup.prepare(config, workdir)  # refuses what cannot be trained
    if processes.started():
      hosts.check_same('data', folder.flat(parts.model.facts.as_json()))
    with run_folder.hold(workdir.make()):
      log = train(parts, stop)
  if log is not None:
    report.after_training(config, workdir, log.film)


def train(parts: Setup, stop: Callable[[int], str]) -> StepLog | None:
  """Trains, and returns the log, or None if all steps were done before.

  stop: see `preemption.watch`.
  """
  run = begin(parts)
  if run is None:
    return None
  tracing = contextlib.nullcontext(run.compute)
  if steps := hooks.traced(parts.config):
    tracing = profiling.trace_steps(run.compute, parts.workdir, steps, run.log.restart_clock)
  with run.log.open(), tracing as run.compute:
    step, following = run.start, None
    finished, calls = run.catch_up(), itertools.count()
    while not finished:
      if why := stop(next(calls)):
        error = Preempted if why == preemption.SIGTERM else KeyboardInterrupt
        raise error(run.interrupt(step, why))
      batches = following or run.take(step)
      run.advance(step, batches)
      step += len(batches)
      due = hooks.due(parts.config, parts.hooks, step)
      # The next batches are read while the devices compute, but not before a
      # due hook, which a damaged image must not prevent.
      following = None if due else run.take(step)
      run.log.read(0 if due else 1)  # 1: all but the call just started
      run.act(step, due)
      finished = run.finish(step, due)
  chosen = ''
  if processes.is_first():
    spent = time.process_time() - parts.start_up.processor
    sessions.write_end(parts.workdir, step, parts.config.training.num_steps, spent)
    chosen = report.read_runs([parts.workdir])[0].chosen
  print(f'trained {step} steps: {parts.workdir}' + bool(chosen) * f'\nnote: {chosen}')
  return run.log


@dataclasses.dataclass
class Loop:
  """A running training.

  made: gives the state before the first step; frozen: parameters that are not
  trained; start: the step it continues from; due: the hooks of this step; left:
  those that an interruption kept from acting; compile, compute: the result of
  `make_advance`; batches: from the step `start` on, on the devices; ahead: the
  programs of hooks that compile in a thread.
  """

  parts: Setup
  made: Callable[[], TrainState]
  frozen: Params
  start: int
  due: list[Hook]
  left: list[Hook]
  log: StepLog
  compile: Callable
  compute: Callable
  batches: Iterator[dict]
  state: TrainState = dataclasses.field(init=False)
  ahead: dict[str, Future] = dataclasses.field(default_factory=dict)

  def take(self, step: int) -> list[dict]:
    """Returns the batches of the next call, after `step`."""
    end = hooks.end_of_call(self.parts.config, self.parts.hooks, step)
    return list(itertools.islice(self.batches, end - step))

  def advance(self, step: int, batches: list[dict]) -> None:
    """Dispatches the steps after `step`, one for each batch."""
    c, start_up = self.parts.config.training, self.parts.start_up
    start_up.mark('batch')
    if step == self.start:
      before = compiling.spent()
      self.compile(step, batches, self.frozen)
      start_up.mark('tracing the step', *compiling.source(before))
      self.state = self.made()
      start_up.mark('state')
    self.state, metrics = self.compute(self.state, step, batches, self.frozen)
    self.log.add(range(step + 1, step + 1 + len(batches)), metrics)
    if step == self.start:
      if c.machine.compile_ahead:
        self.ahead = compile_ahead(self.parts.hooks, self.state, self.frozen)
      jax.block_until_ready(metrics)
      n = len(batches)
      start_up.mark(f'{n} steps' if n > 1 else '1 step')
      tqdm.write(start_up.line(c.verbose))

  def act(self, step: int, due: list[Hook]) -> None:
    """Runs the hooks that are due after a step, in order.

    If a hook fails, a checkpoint that waits for a metric is saved anyway, but
    not with several processes, because they can only save together.
    """
    checkpoints.check_written(self.log.manager)
    self.log.results = {}
    try:
      for hook in due:
        if future := self.ahead.pop(hook.what[0], None):
          with compiling.announced(hook.what[0]):
            future.result()
        hook.act(step, self.state, self.frozen, self.log)
    except Exception:
      if any(hook.saves for hook in due) and not processes.started():
        self.log.save(self.state)
      raise
    if due:
      self.log.restart_clock(step)

  def catch_up(self) -> bool:
    """Runs the hooks that are left; returns whether the training ends with them."""
    if not self.left:
      return False
    names = ', '.join(filter(None, (hook.what[0] for hook in self.left)))
    tqdm.write(f'step {self.start}: {names}, which an interruption prevented')
    self.state = self.made()
    self.act(self.start, self.left)
    return self.finish(self.start, self.due)

  def finish(self, step: int, due: list[Hook]) -> bool:
    """Returns whether the training ends after a step, whose hooks `due` have acted.

    If it has over-fitted, the other hooks act too.
    """
    parts = self.parts
    if step == parts.config.training.num_steps:
      return True
    if not (due and (why := ended(parts.workdir, step, parts.config))):
      return False
    self.act(step, [hook for hook in parts.hooks if hook not in due])
    tqdm.write(f'step {step}: {why}')
    return True

  def interrupt(self, step: int, why: str) -> str:
    """Saves after a signal, and returns a message; why: the signal."""
    self.log.read()
    if step > self.start:
      self.log.save(self.state)
    saved = 'saved' if step else 'nothing to save yet'
    return f'stopped by {why} at step {step}, {saved}; the same command continues'


def compile_ahead(todo: list[Hook], state: TrainState, frozen: Params) -> dict[str, Future]:
  """Starts to compile the programs of hooks, in a thread of its own.

  Several processes must compile in the same order, and do without it.
  """
  if processes.started():
    return {}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.format), state)
  pool = ThreadPoolExecutor(1)

  def compile(hook):
    hook.program.compile(*hook.inputs(shapes, frozen))

  futures = {hook.what[0]: pool.submit(compile, hook) for hook in todo if hook.program}
  pool.shutdown(wait=False)
  return futures


def beside(function: Callable[[], TrainState]) -> Callable[[], TrainState]:
  """Starts a function in a thread, and returns one that waits for its result.

  With several processes it is started later, because they must compile in the
  same order.
  """
  if processes.started():
    return function
  pool = ThreadPoolExecutor(1)
  result = pool.submit(function)
  pool.shutdown(wait=False)
  return result.result


def begin(parts: Setup) -> Loop | None:
  """Begins or continues a training; returns None if it is finished.

  What can be refused is refused before the first program is compiled.
  """
  config, mesh, source = parts.config, parts.mesh, parts.source
  c = config.training
  manager, start, make_state = restore(parts)
  announce(parts, start)
  why = ended(parts.workdir, start, config)
  due = parts.hooks if why else hooks.due(config, parts.hooks, start)
  left = hooks.left(parts.model, due, start)
  if start >= c.num_steps and not left:
    return None
  if why and not left:
    print(f'this run is finished: {why}')
    return None
  more_steps = 0.0
  if c.average.name == 'powers':
    more_steps = averages.begin(parts.workdir, start, c.batch_size)
  parts.workdir.make('samples')
  rows = local_rows(mesh, c.batch_size)
  read = datasets.batches(config, *parts.examples, start, rows)
  read = itertools.chain([next(read)], read)
  teacher, autoencoder = parts.model.teacher, parts.model.autoencoder
  frozen = teacher.prepare(source, mesh) | autoencoder.prepare(source, mesh)
  frozen = replicate(mesh, frozen)
  for hook in parts.hooks:
    hook.prepare()
  made = beside(make_state)
  with as_user_error(f'{parts.workdir}: '):
    log = open_files(parts, manager, start, checkpoints.restore_log(manager))

  def count(jaxpr):
    log.flop = sum(programs.flops(jaxpr).values()) / mesh.size

  program = setup.make_advance(parts, more_steps, count)
  key = stream(config.seed, 'latents')
  batches = (
    parts.encode(frozen, to_global(mesh, batch), key, step)
    for step, batch in enumerate(read, start)
  )
  parts.start_up.mark('files')
  return Loop(
    parts,
    made=made,
    frozen=frozen,
    start=start,
    due=due,
    left=left,
    log=log,
    compile=program.compile,
    compute=program.start,
    batches=batches,
  )


def restore(parts: Setup) -> tuple[CheckpointManager, int, Callable[[], TrainState]]:
  """Returns (the run's checkpoints, its step, a function that gives its state).

  Without a newest state the function compiles the first one.
  Raises UserError for a folder of another run, and for damaged checkpoints.
  """
  c, workdir, shapes = parts.config.training, parts.workdir, parts.shapes
  roles.check_same_run(workdir, parts.config, parts.model.facts)
  kept = c.checkpoints
  with as_user_error():
    manager = checkpoints.open_manager(
      workdir,
      kept.keep,
      every=kept.every or c.num_steps,
      keep_every=kept.multiples * (kept.every or c.num_steps),
      keep_best=kept.best.number if kept.best else 0,
      more_emas=shapes.more_ema_params,
    )
  with as_user_error(f'{workdir}: '):
    state = checkpoints.restore_latest(manager, shapes)
  if state is not None:
    announce_length(parts, int(state.step))
    return manager, int(state.step), lambda: state
  if folder.read_config(workdir) is not None:
    print(f'{workdir} has a config.json but no checkpoint: it begins at step 0')
  if c.start is not None:
    other_runs.check_start(parts.config, parts.model.facts)
  if c.start is None or 'rank' in c.start:  # the base of adapters is frozen
    return manager, 0, parts.make_state
  with from_config('training.start.run'):
    begin = load.begin_from(shapes.params, c.start.run)
  return manager, 0, lambda: begin(parts.make_state())


def announce_length(parts: Setup, step: int) -> None:
  """Prints what another training.num_steps changes for a run at `step`."""
  before = (folder.read_config(parts.workdir) or {}).get('training', {})
  rates, total = parts.rates, before.get('num_steps', len(parts.rates))
  if total == len(rates) or step >= len(rates):
    return
  old = setup.rates_of(parts.config, total)[:step]
  if not np.allclose(old, rates[: len(old)], rtol=1e-5, atol=0.0):
    print(
      f'note: training.num_steps was {total}, and is {len(rates)}: the '
      f'learning rate restarts its decay, from {rates[step]:.3g} after '
      f'{old[-1]:.3g} at step {len(old)}'
    )


def open_files(parts: Setup, manager: CheckpointManager, start: int, before: Json) -> StepLog:
  """Writes the config and the start of a training, and opens its log; before: see `StepLog`."""
  config, workdir = parts.config, parts.workdir
  stored = folder.stored_form(config, parts.model.facts)
  first = processes.is_first()  # of several processes one writes
  folder.write_config(workdir, config, parts.model.facts)
  if first:
    sessions.write_start(workdir, start, parts.num_parameters, setup.own_code(parts.model))
    trained_on.keep(workdir, parts.source, parts.model.facts.checksum)
  writer = MetricWriter(workdir.path, start, first, parts.loggers)
  writer.write_config(start, stored, roles.hparams(stored))
  total = config.training.num_steps
  bar = tqdm(total=total, initial=start, unit='step', disable=None)
  return StepLog(
    config,
    workdir,
    manager=manager,
    writer=writer,
    bar=bar,
    start=start,
    rates=parts.rates,
    stored=stored,
    before=before,
    band=parts.band.band,
  )


# What else a training says when it starts: functions (config, step) -> a line or ''.
NOTES = (
  setup.own_parts_on_a_cpu,
  setup.slow_average,
  setup.shortened_warmup,
  setup.heavy_noise,
  setup.crooked_coupling,
  hooks.trace_that_is_over,
  hooks.best_of_few,
)


def announce(parts: Setup, step: int) -> None:
  """Prints devices, data, progress and notes of the run, a line each."""
  config, total = parts.config, parts.config.training.num_steps
  data, fsdp = parts.mesh.shape.values()
  mesh = f'{data}x{fsdp} {jax.devices()[0].device_kind} (data x fsdp)'
  what = 'adapters' if config.at('training.start.rank') else 'network'
  print(f'devices: {mesh}; {what}: {parts.num_parameters:,} parameters')
  for note in unused_by_training(parts.mesh.size):
    print(note)
  tests = max((hook.test_images for hook in parts.hooks), default=0)
  line = datasets.described(config, parts.model.facts, len(parts.source))
  held_out_line = f', {tests:,} {held_out(config)} {parts.model.facts.x.noun}' * bool(tests)
  print(f'data: {line}{held_out_line}')
  print(f'{parts.workdir}: step {step} of {total}')
  if step >= total:
    print(
      f'this run is finished: it has {step} of {total} steps. '
      'A larger --config.training.num_steps continues it'
    )
  notes = [note(config, step) for note in NOTES]
  if step:
    notes.append(setup.changed_code(parts.model))
  for line in (*filter(None, notes), *parts.band.lines):
    print(line)


def ended(workdir: RunFolder, step: int, config: Node) -> str:
  """Returns why a training has over-fitted at a step, or '' if it goes on.

  It has after training.held_out.patience steps without a lower loss. The losses
  are read from metrics.jsonl, so that a continued run ends at the same step.
  """
  patience, split = config.at('training.held_out.patience'), held_out(config)
  if not patience:
    return ''
  curve = read_curves(workdir.metrics).get(f'{split}_loss')
  pairs = zip(curve.steps, curve.values, strict=True) if curve else ()
  losses = [(loss, at) for at, loss in pairs if at <= step]
  best, at = min(losses, default=(0.0, step))
  if not processes.broadcast([step - at >= patience])[0]:
    return ''
  return (
    f'the {split} loss has been lowest at step {at}, {best:.4g}, and not lower '
    f'for {step - at} steps (training.held_out.patience)'
  )

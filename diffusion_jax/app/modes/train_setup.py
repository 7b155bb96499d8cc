"""What a training consists of, and where it starts."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax.app import devices, ema, images, models
from diffusion_jax.app.config import check_one_of, from_config, make
from diffusion_jax.errors import UserError
from diffusion_jax.app.modes import hooks
from diffusion_jax.app.modes.hooks import Hook
from diffusion_jax.app.run import folder
from diffusion_jax.app.run.step_log import StepLog
from diffusion_jax.app.schemas import OptimizerFacts
from diffusion_jax.runtime.start_up import StartUp
from diffusion_jax.core.keys import stream
from diffusion_jax.runtime import processes, sessions
from diffusion_jax.runtime.files import write_json
from diffusion_jax.training import checkpoints, first_weights, snapshots
from diffusion_jax.training.logging import MetricWriter
from diffusion_jax.training.objectives import Objective
from diffusion_jax.runtime.sharding import (
  fsdp_sharding,
  local_rows,
  on_mesh,
  replicate,
  replicated,
  to_global,
)
from diffusion_jax.training.state import TrainState, init_state
from diffusion_jax.training.step import make_train_step, make_train_steps


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything a training needs that a config can get wrong.

  make_state: () -> the first state; shapes: of the state, on the mesh;
  learning_rate: step -> rate; hooks: see `hooks.Hook`.
  """

  config: ConfigDict
  workdir: Path
  model: models.Model
  mesh: Mesh
  source: Any
  objective: Objective
  optimizer: Any
  learning_rate: Callable[[int], Any]
  make_state: Callable[[], TrainState]
  shapes: TrainState
  encode: Callable
  hooks: list[Hook]
  start_up: StartUp


def setup(config: ConfigDict, workdir: str | Path) -> Setup:
  """Makes the parts of a training; writes nothing.

  Raises UserError for everything that a config can get wrong.
  """
  start_up = StartUp()
  check(config)
  mesh = devices.make_mesh(config)
  check_batch(config, mesh)
  source = images.source_of(config)
  start_up.mark('data')
  model = models.make(config, workdir)
  model.check('train')
  objective = model.objective()
  schema = type(model).schema
  facts = OptimizerFacts(config.training.num_steps)
  optimizer, rate = make(schema, 'optimizer', config.optimizer, facts)
  make_state, shapes = state_maker(model, objective, optimizer, mesh)
  todo = hooks.make_hooks(model, mesh)
  for hook in todo:
    hook.rehearse(shapes, model.frozen_shapes())
  start_up.mark('tracing')
  return Setup(
    config,
    Path(workdir),
    model,
    mesh,
    source,
    objective,
    optimizer,
    jax.jit(rate),
    make_state,
    shapes,
    model.make_encode(mesh),
    todo,
    start_up,
  )


def check(config: ConfigDict) -> None:
  """Raises UserError for fields of a training that contradict one another."""
  c = config.training
  check_one_of(('auto', 'force'), 'training.resume', c.resume)
  if c.keep_every and (
    not c.checkpoint_every or c.keep_every % c.checkpoint_every
  ):
    raise UserError(
      f'config.training.keep_every={c.keep_every} is not a multiple of '
      f'training.checkpoint_every={c.checkpoint_every}'
    )
  widths = c.ema_sigma_rels
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
  if c.skip_nonfinite and config.optimizer.get('repair_gradients'):
    raise UserError(
      'config.training.skip_nonfinite leaves out steps that '
      'optimizer.repair_gradients would take: set one of the two'
    )


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
  """Raises UserError for a batch that cannot be split over the devices."""
  c = config.training
  if c.batch_size % (mesh.size * c.accumulate):
    parts = f' in {c.accumulate} parts' if c.accumulate > 1 else ''
    raise UserError(
      f'config.training.batch_size={c.batch_size} cannot be split over the '
      f'{mesh.size} devices of the mesh{parts}: take a multiple of '
      f'{mesh.size * c.accumulate}, or fewer devices by --config.training.mesh'
    )


def state_maker(
  model: models.Model, objective: Objective, optimizer: Any, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
  """Returns (the function that makes the first state, its shapes on the mesh)."""
  key = stream(model.config.seed, 'parameters')
  _, more_rates = ema.rates(model.config)

  def make_arrays(key):
    params = model.init(key)
    return init_state(params, optimizer, objective.init(), more_rates)

  with from_config('network'):
    shapes = jax.eval_shape(make_arrays, key)
  places = fsdp_sharding(mesh, shapes)
  shapes = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )
  return lambda: jax.jit(make_arrays, out_shardings=places)(key), shapes


def make_advance(parts: Setup, more_steps: float = 0.0) -> Callable:
  """Returns (state, batches, frozen) -> (state, metrics), a step for each batch.

  The state is donated. frozen: parameters that are not trained. Leaves of
  metrics are [], or with training.steps_per_call above 1 [steps_per_call].
  more_steps: see `ema.rates`.
  """
  config, mesh = parts.config, parts.mesh
  c = config.training
  key = stream(config.seed, 'training')
  step = make_train_step(
    parts.objective,
    parts.optimizer,
    *ema.rates(config, more_steps),
    accumulate=c.accumulate,
    skip_nonfinite=c.skip_nonfinite > 0,
  )
  places = jax.tree.map(lambda x: x.sharding, parts.shapes)
  compiled: Any = jax.jit(
    on_mesh(mesh, step if c.steps_per_call == 1 else make_train_steps(step)),
    donate_argnums=0,
    out_shardings=(places, replicated(mesh)),
  )

  def advance(state, batches, frozen):
    if c.steps_per_call == 1:
      return compiled(state, batches[0], key, frozen)
    # One program, for batches of one number, of which the last may be unused.
    unused = [batches[-1]] * (c.steps_per_call - len(batches))
    return compiled(state, (*batches, *unused), key, len(batches), frozen)

  return advance


@dataclasses.dataclass
class Run:
  """A training under way: its state, and what it is written to.

  frozen: parameters that are not trained; start: the step that it continues.
  results: metrics that hooks have measured at this step.
  """

  parts: Setup
  state: TrainState
  frozen: Any
  start: int
  manager: Any
  writer: MetricWriter
  log: StepLog
  bar: tqdm
  compute: Callable
  batches: Iterator[dict]
  stored: dict
  seen: snapshots.Batches | None
  results: dict[str, float] = dataclasses.field(default_factory=dict)

  def take(self, step: int) -> list[dict]:
    """Returns the batches of the call that begins after `step`, on devices."""
    key = stream(self.parts.config.seed, 'latents')
    end = hooks.end_of_call(self.parts.config, self.parts.hooks, step)
    return [
      self.parts.encode(
        self.frozen, to_global(self.parts.mesh, next(self.batches)), key, i
      )
      for i in range(step, end)
    ]

  def advance(self, step: int, batches: list[dict]) -> None:
    """Starts the steps of the batches, which follow `step`."""
    start_up = self.parts.start_up
    start_up.mark('batch')
    self.state, metrics = self.compute(self.state, batches, self.frozen)
    start_up.mark('compilation')
    self.log.add(range(step + 1, step + 1 + len(batches)), metrics)
    if step == self.start:
      jax.block_until_ready(metrics)
      n = len(batches)
      start_up.mark(f'{n} steps' if n > 1 else '1 step')
      tqdm.write(str(start_up))

  def due(self, step: int) -> list[Hook]:
    """Returns what is to be done after a step, in order."""
    checkpoints.check_written(self.manager)
    return hooks.due(self.parts.config, self.parts.hooks, step)

  def save(self, metrics: dict | None = None) -> None:
    """Starts writing a checkpoint of the state."""
    checkpoints.save(self.manager, self.state, self.stored, metrics)

  def interrupt(self, step: int) -> str:
    """Saves after a signal, and returns what to say."""
    self.log.read()
    if step > self.start:
      self.save()
    saved = 'saved' if step else 'nothing to save yet'
    return f'stopped by SIGTERM at step {step}, {saved}; the same command continues'

  @contextlib.contextmanager
  def saved_if_it_fails(self) -> Iterator[None]:
    """Saves the state if one of the hooks of a step fails."""
    self.results = {}
    try:
      yield
    except Exception:
      if self.parts.config.training.checkpoint_every:
        self.save()
      raise

  @contextlib.contextmanager
  def open(self) -> Iterator[None]:
    """Finishes what is being written when the training ends, in any way."""
    with contextlib.ExitStack() as ends:
      ends.callback(checkpoints.finish, self.manager)
      ends.callback(self.writer.close)
      ends.callback(self.bar.close)
      yield
    if processes.is_first():
      sessions.write_end(self.parts.workdir, int(self.state.step))


def begin(parts: Setup) -> Run | None:
  """Restores or makes the state, and opens what a training writes.

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
  first = processes.is_first()  # of several processes one writes
  if first:
    write_json(workdir / 'config.json', stored)
    (workdir / 'samples').mkdir(exist_ok=True)
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


def open_manager(config: ConfigDict, workdir: Path, shapes: TrainState) -> Any:
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


def restore(
  workdir: Path, manager: Any, shapes: TrainState
) -> TrainState | None:
  """Reads the run's newest state; None if it has no checkpoint."""
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
  """Prints devices, data and progress of the run in three lines."""
  config, source = parts.config, parts.source
  count = sum(x.size for x in jax.tree.leaves(state.params))
  shape = 'x'.join(map(str, source.image_shape))
  data, fsdp = parts.mesh.shape.values()
  kind = jax.devices()[0].device_kind
  print(f'devices: {data}x{fsdp} {kind} (data x fsdp); network: {count:,} parameters')
  print(f'data: {config.data.name}, {len(source):,} images of {shape}')
  print(f'{parts.workdir}: step {int(state.step)} of {config.training.num_steps}')

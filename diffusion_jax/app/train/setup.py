"""The parts of a training, made from its config."""

import dataclasses
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import stages
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.tree import Node, find, from_config
from diffusion_jax.app.inputs import conditions, datasets, stored_latents
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.contracts import CONTRACTS, FACTS_OF_LOGGERS
from diffusion_jax.app.kinds.idle import TRAINING, long_warmup
from diffusion_jax.app.kinds.model import (
  NOTHING,
  Model,
  check_attention,
  effort,
  make_encode,
  make_mesh,
)
from diffusion_jax.app.kinds.network import Process
from diffusion_jax.app.kinds.rules import Row, lines
from diffusion_jax.app.run import bands, weights
from diffusion_jax.app.run.bands import Comparison
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks
from diffusion_jax.app.train.hooks import Hook
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.losses import step_times
from diffusion_jax.core.parametrization import error_scale
from diffusion_jax.data import reads, simulations
from diffusion_jax.data.sources import Source
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError, as_user_error, refuse
from diffusion_jax.runtime import compiling, sessions
from diffusion_jax.runtime.compiling import Program, announced, options
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import (
  batch_sharding,
  fsdp_sharding,
  host_mesh,
  on_mesh,
  placed,
  platform_of,
  replicated,
  spread,
)
from diffusion_jax.runtime.start_up import THREADS, StartUp
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training.averaging import Averages
from diffusion_jax.training.couplings import is_straight
from diffusion_jax.training.loggers import LOGGERS, Logger
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.separable import check_objective, check_separable, without_layers
from diffusion_jax.training.state import TrainState, init_state
from diffusion_jax.training.step import make_train_step, make_train_steps

_HEAVY = 200.0  # the mean weight of the noisiest twentieth of the levels, for the median of all
_DRAWS = 4000  # levels


@dataclasses.dataclass(frozen=True)
class Setup:
  """The parts of a training that depend on its config.

  examples: the images, or their latents, and their facts; make_state: () -> the first state;
  shapes: the shapes of the state, on the mesh; rates: the learning rate of each
  step; hooks: see `hooks.Hook`; loggers: see `MetricWriter`; band: what it is compared with.
  """

  config: Node
  workdir: RunFolder
  model: Model
  mesh: Mesh
  source: Source
  examples: tuple[Source, Facts]
  objective: Objective
  optimizer: optax.GradientTransformation
  rates: np.ndarray
  make_state: Callable[[], TrainState]
  shapes: TrainState
  encode: Callable
  hooks: list[Hook]
  loggers: dict[str, Callable[..., Logger]]
  start_up: StartUp
  band: Comparison

  @property
  def num_parameters(self) -> int:
    """The number of parameters that are trained."""
    return sum(x.size for x in jax.tree.leaves(self.shapes.params))


def prepare(config: Node, workdir: RunFolder) -> Setup:
  """Makes the parts of a training; writes nothing but simulations.

  Raises UserError if anything in the config is wrong.
  """
  start_up = StartUp()
  refuse(lines(TRAINING, config, 'train', workdir))
  loggers = {
    name: find(LOGGERS, 'training.log_to', name, FACTS_OF_LOGGERS, CONTRACTS['log_to'])
    for name in config.training.log_to
  }
  mesh = make_mesh(config)
  refuse(lines([*mesh_rules(mesh), _threads_rule(mesh)], config, 'train', workdir))
  roles.check_same_run(workdir, config)
  check_before_simulating(config, workdir)
  source = datasets.source_of(datasets.of_training(datasets.of_run(config, workdir)))
  start_up.mark('data')
  model = weights.adapted(make_model(config, workdir))
  config = datasets.of_training(model.config)  # the config with what follows from the data
  facts = datasets.with_contents(model.facts, source)
  roles.check_same_run(workdir, config, facts)
  model = dataclasses.replace(model, config=config, facts=facts)
  model.check('train')
  examples = source, facts
  if config.at('latent.path'):
    examples = stored_latents.examples_of(config, facts, source)
  objective, optimizer, make_state, shapes = state_maker(model, mesh)
  check_parts(model, objective, shapes)
  todo = hooks.make_hooks(model, mesh)
  frozen = model.teacher.shapes() | model.autoencoder.shapes()
  for hook in todo:
    hook.rehearse(shapes, frozen)
  start_up.mark('tracing')
  rates = rates_of(config, config.training.num_steps)
  refuse(lines([rate_rule(rates)], config, 'train', workdir))
  return Setup(
    config=config,
    workdir=workdir,
    model=model,
    mesh=mesh,
    source=source,
    examples=examples,
    objective=objective,
    optimizer=optimizer,
    rates=rates,
    make_state=make_state,
    shapes=shapes,
    encode=make_encode(model, mesh),
    hooks=todo,
    loggers=loggers,
    start_up=start_up,
    band=bands.compare(
      config,
      folder.flat(folder.stored_form(config, facts)),
      sessions.read(workdir),
      own_code(model),
    ),
  )


def check_before_simulating(config: Node, workdir: RunFolder) -> None:
  """Raises UserError for what the first simulations of a run show to be wrong.

  They are kept, unless it does.
  """
  tried, place = {}, workdir.simulations
  first = datasets.first_block(config, tried)
  if first is config or place.exists():
    return
  make_model(first, workdir, datasets.facts_of(first)).check('train')
  with from_config('data'):
    simulations.keep(tried, place)


def rates_of(config: Node, total: int) -> np.ndarray:
  """Returns the learning rate of each step of a training of `total` steps."""
  _, rate = config.optimizer.make({'total_steps': total})
  return np.asarray(jax.jit(jax.vmap(rate))(np.arange(total)))


def rate_rule(rates: np.ndarray) -> Row:
  """Returns the rule that optimizer.decay_steps leaves a learning rate to the last steps."""
  steps = int(np.max(np.flatnonzero(rates), initial=-1)) + 1
  return Row(
    lambda c, facts: c.optimizer.get('decay_steps') and 0 < steps < len(rates) - 1 and steps,
    'config.optimizer.decay_steps={c.optimizer.decay_steps}: the learning rate is 0 from step '
    '{it} on, and training.num_steps={c.training.num_steps}: set decay_steps to '
    '{c.training.num_steps}, or None',
  )


def mesh_rules(mesh: Mesh) -> tuple[Row, ...]:
  """Returns the rules that the devices can split the batch, and its fixed parts."""
  return _batch_rule(mesh), _fixed_parts_rule(mesh)


def _fixed_parts_rule(mesh):
  def wrong(c, facts):
    parts, size = c.training.machine.fixed_parts, c.training.batch_size
    whole = c.objective.get('free_bits') or c.objective.get('coupling')
    if parts is None:
      return ''
    if parts & (parts - 1):
      return ' is not a power of 2, such as 8'
    if mesh.shape['fsdp'] > 1:
      return ' needs a copy of the parameters on every device: set training.machine.mesh=-1,1'
    if parts % mesh.size:
      return f' cannot be split over {mesh.size} devices: take fewer by training.machine.mesh'
    if size % parts:
      return f' does not divide training.batch_size={size}: take a multiple of {parts}'
    if c.training.machine.accumulate > 1:
      return ' already cuts the batch into parts: set training.machine.accumulate=1'
    if whole:
      return ': the loss is not a mean over the batch, by objective.free_bits or .coupling'
    if c.at('latent') is not None and not c.at('latent.path'):
      return ' needs stored latents: write them by --mode=encode, and set latent.path'
    return ''

  return Row(wrong, 'config.training.machine.fixed_parts={c.training.machine.fixed_parts}{it}')


def _threads_rule(mesh):
  local = jax.local_device_count() if platform_of(mesh) == 'cpu' else 0
  return Row(
    lambda c, facts: c.training.machine.fixed_parts and local > THREADS and local,
    'config.training.machine.fixed_parts={c.training.machine.fixed_parts}: the bits follow the '
    f'number of threads, which is {THREADS} on CPUs, or that of the simulated devices of a '
    'process, {it}: take fewer by XLA_FLAGS=--xla_force_host_platform_device_count',
  )


def _batch_rule(mesh):
  several = mesh.size > 1
  over = f' over the {mesh.size} devices of the mesh' if several else ''
  fewer = ', or fewer devices by --config.training.machine.mesh' if several else ''

  def split(c, facts):
    count = c.training.machine.accumulate
    parts = f' in {count} parts' if count > 1 else ''
    fits = c.training.batch_size % (mesh.size * count) == 0
    return not fits and f'{over}{parts}: take a multiple of {mesh.size * count}{fewer}'

  return Row(split, 'config.training.batch_size={c.training.batch_size} cannot be split{it}')


def state_maker(
  model: Model, mesh: Mesh
) -> tuple[Objective, optax.GradientTransformation, Callable[[], TrainState], TrainState]:
  """Returns objective, optimizer, a function that makes the first state, and its shapes."""
  c, key = model.config, stream(model.config.seed, 'parameters')
  objective = model.objective()
  facts: Json = {'total_steps': c.training.num_steps}
  if 'fused' in c.optimizer.signature:  # networks of users may have both too
    network = model.network()
    facts |= {name: getattr(network, name, None) for name in ('fused', 'stacked')}
  optimizer, _ = c.optimizer.make(facts)
  more_rates = averages_of(c).more

  def make_arrays(key):
    params = model.init(key)
    return init_state(params, optimizer, objective.init(), more_rates)

  with from_config('network'):
    shapes = jax.eval_shape(make_arrays, key)
  places = fsdp_sharding(mesh, shapes)
  shapes = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
  )
  # Accelerators would compile the many draws of random numbers for longer.
  host = host_mesh()
  made = jax.jit(make_arrays, compiler_options=options(host, 'once'))

  def make_state():
    with announced('the first state'):
      state = made(jax.device_put(key, host.devices.flat[0]))
    return spread(state, places)

  return objective, optimizer, make_state, shapes


def jit_step(
  config: Node,
  mesh: Mesh,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  shapes: TrainState,
  more_steps: float = 0.0,
) -> stages.Wrapped:
  """Returns the jitted (state, batch, key, frozen, rate) -> (state, metrics).

  With training.steps_per_call above 1 it takes a batch and a rate for each
  step, and their number after the key. The state is donated. more_steps: see
  `averages_of`.
  """
  c = config.training
  averages = averages_of(config, more_steps)
  step = make_train_step(
    objective,
    optimizer,
    averages.rate,
    averages.more,
    accumulate=c.machine.accumulate,
    fixed_parts=c.machine.fixed_parts,
    skip_nonfinite=c.skip_nonfinite > 0,
  )
  single = c.steps_per_call == 1
  places = compiling.places_of(mesh, shapes)
  return jax.jit(
    on_mesh(mesh, step if single else make_train_steps(step)),
    donate_argnums=0,
    in_shardings=(places, *[None] * (4 if single else 5)),
    out_shardings=(places, replicated(mesh)),
    compiler_options=options(mesh, effort(config), c.machine.deterministic),
  )


def abstract_step(config: Node, mesh: Mesh, workdir: RunFolder) -> tuple[stages.Wrapped, tuple]:
  """Returns (the jitted training step, the shapes of its arguments).

  It is the step of --mode=train, without arrays and for any devices; it takes
  one batch. With `latent` the step takes latents.
  """
  config = store.with_flags(config, [('training.steps_per_call', '1')])
  check_attention(config, mesh)
  refuse(lines((*TRAINING, *mesh_rules(mesh)), config, 'train', None))
  model = weights.adapted(make_model(config, workdir))
  model.check('train')
  objective, optimizer, _, state = state_maker(model, mesh)
  check_parts(model, objective, state)
  batch = placed(abstract_batch(model), batch_sharding(mesh))
  frozen = placed(model.teacher.shapes(), replicated(mesh))
  step = jit_step(config, mesh, objective, optimizer, state)
  return step, (state, batch, abstract_key(), frozen, 1.0)


def abstract_batch(model: Model) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch, with latents for the images of `latent`."""
  facts, size = model.facts, model.config.training.batch_size
  shape = facts.x.shape if model.autoencoder is NOTHING else model.state_shape
  batch = {'x': jax.ShapeDtypeStruct((size, *shape), jnp.float32)}
  if facts.num_classes:
    batch['label'] = jax.ShapeDtypeStruct((size,), jnp.int32)
  if facts.context is not None:
    batch['context'] = jax.ShapeDtypeStruct((size, *facts.context.shape), jnp.float32)
  if facts.lengths:
    batch['valid'] = jax.ShapeDtypeStruct((size, facts.x.shape[0]), jnp.bool_)
  return batch | conditions.Texts(model).shapes(size)


def check_parts(model: Model, objective: Objective, shapes: TrainState) -> None:
  """Raises UserError for a loss of the whole batch in a training that cuts the batch into parts.

  A user's own objective, and parts of one, are tried on two examples, the network without its
  layers where numbers are compared.
  """
  c, name = model.config.training.machine, model.config.objective.name
  own, batch = own_sections(model.config.objective), abstract_batch(model)
  params, frozen = shapes.params, model.teacher.shapes()
  if own:
    named = ' and '.join(f'config.{x.where}={x.choice!r}' for x in own)
    with as_user_error(f'{named}: '):
      check_objective(objective, params, frozen, batch)
      if ':' in name and objective.separable and model.noisy is not None:
        network = without_layers(model.noisy.trained(test=True))
        held_out = model.objective(test=True, network=network)
        check_separable(held_out, params, frozen, batch, unread=('network',))
  if c.accumulate == 1 and c.fixed_parts is None:
    return
  field, alone = ('accumulate', '1') if c.accumulate > 1 else ('fixed_parts', 'None')
  path = f'training.machine.{field}'
  whole = f'config.{path}={c.get(field)} cuts the batch, and the loss of objective={name}'
  if not objective.separable:
    raise UserError(f'{whole} is not a mean over its rows: set {path}={alone}')


def own_sections(section: Node) -> list[Node]:
  """Returns the sections of a user's own parts in a section, or the section alone if it is one."""
  if ':' in section.choice:
    return [section]
  return [own for x in section.values() if isinstance(x, Node) for own in own_sections(x)]


def make_advance(
  parts: Setup, more_steps: float, count: Callable[[ClosedJaxpr], object]
) -> Program:
  """Returns (state, step, batches, frozen) -> (state, metrics), see `compiling.in_place`.

  It takes a step for each batch. step: the number of steps before. frozen:
  parameters that are not trained. Leaves of metrics are [], or
  [steps_per_call] if training.steps_per_call is above 1. count: called with the
  trace of a step.
  """
  c = parts.config.training
  key = stream(parts.config.seed, 'training')
  jitted = jit_step(
    parts.config, parts.mesh, parts.objective, parts.optimizer, parts.shapes, more_steps
  )
  program = compiling.in_place(jitted, parts.shapes, 'the training step', count)

  def inputs(step, batches, frozen):
    if c.steps_per_call == 1:
      return batches[0], key, frozen, parts.rates[step]
    # Unused batches at the end, so that one program is compiled.
    n, rates = len(batches), np.zeros(c.steps_per_call, np.float32)
    rates[:n] = parts.rates[step : step + n]
    batches = (*batches, *[batches[-1]] * (c.steps_per_call - n))
    return batches, key, n, frozen, rates

  return Program(
    lambda state, *given: program.start(state, *inputs(*given)),
    lambda *given: program.compile(*inputs(*given)),
  )


def averages_of(config: Node, more_steps: float = 0.0) -> Averages:
  """Returns the averages of a training; more_steps: see `optimizer.ema_power`."""
  c = config.training
  facts = {'batch_size': c.batch_size, 'total_steps': c.num_steps, 'more_steps': more_steps}
  return c.average.make(facts)


# -- what a training says of its config when it starts ---------------------------


def own_parts_on_a_cpu(config: Node, step: int = 0) -> str:
  """Returns a note on what XLA:CPU may do with a user's own parts, or ''."""
  own = [x for x in (config.data.name, config.objective.name) if ':' in x]
  flagged = 'ynn_fusion_type' in os.environ.get('XLA_FLAGS', '')
  if not own or jax.default_backend() != 'cpu' or flagged:
    return ''
  return f'note: XLA:CPU may compile sums over products in {own[0]} wrongly: docs/performance.md'


def own_code(model: Model) -> Json:
  """Returns sums of the user's own modules that a training uses, and of what they have opened."""
  sections = [x for n, x in folder.plain(model.config).items() if n not in roles.USES]
  return {**trust.code_of(sections), **reads.record()}


def changed_code(model: Model) -> str:
  """Returns a note if the user's own code, or what it reads, has changed since the last start."""
  before = sessions.last_own(sessions.read(model.workdir))
  now = reads.now(before) | own_code(model)
  names = [name for name, x in before.items() if now[name] != x]
  changed = f'{", ".join(names[:3])}{" and others" * (len(names) > 3)}'
  return f'note: {changed} changed since the last start: the training goes on with it' * bool(names)


def shortened_warmup(config: Node, step: int = 0) -> str:
  """Returns a note on a warm-up that the training shortens, or ''."""
  long = long_warmup(config)
  return f'note: {long}: the warm-up takes a tenth of the training' if long else ''


def heavy_noise(config: Node, step: int = 0) -> str:
  """Returns a note if the loss weighs errors in eps by far most in the noisiest levels, or ''.

  An error in eps is one of sigma / alpha times as much in x_0, so that the weight of
  x_0 has to vanish with the SNR; else the loss is of little but noise. A score is
  -eps / sigma, so what is asked of eps is asked of it too. Levels are drawn as in the training.
  """
  weight, times = config.objective.get('weight'), config.objective.get('times')
  if 'parametrization' not in config or not isinstance(weight, Node):
    return ''
  process = Process.of(config)
  kind, sigma_data = process.parametrization
  if process.is_learned or kind not in ('eps', 'score'):
    return ''
  of_x0 = weight.make({'sigma_data': sigma_data})
  steps = {'schedule_steps': process.steps}
  draw = times.make(steps) if isinstance(times, Node) else step_times(**steps)

  @jax.jit  # one program
  def noisy_first():
    level, time_weight = draw(stream(0, 'noise_levels'), _DRAWS, process.schedule)
    weights = time_weight * of_x0(level) / error_scale('eps', level) ** 2
    return weights[jnp.argsort(level.logsnr)]

  weights = np.asarray(noisy_first(), np.float64)
  ratio = weights[: _DRAWS // 20].mean() / np.median(weights)
  if not ratio > _HEAVY:
    return ''
  return (
    f'note: with parametrization={kind}, objective.weight={weight.name} weighs an error in eps '
    f'{ratio:,.0f} times as much in the noisiest twentieth of the levels as in their middle: '
    'set objective.weight=snr'
  )


def crooked_coupling(config: Node, step: int = 0) -> str:
  """Returns a note if pairs of noise and data are joined by curved paths, or ''."""
  if config.at('objective.coupling') is None or is_straight(Process.of(config).schedule):
    return ''
  return (
    f'note: objective.coupling={config.objective.coupling.name} on curved paths is right for the '
    'ODE, but no optimal transport (schedule=flow)'
  )


def slow_average(config: Node, step: int = 0) -> str:
  """Returns a line if the average will keep a tenth of its start, or ''."""
  c = config.training
  if step >= c.num_steps or c.average.get('warmup'):
    return ''
  later = averages_of(config).rate(jnp.arange(1, c.num_steps))
  weight = np.prod(1.0 - np.asarray(later, np.float64))
  if weight <= 0.1:
    return ''
  return (
    f'after {c.num_steps} steps the average of the parameters, which previews '
    f'and held-out losses use, will still be {weight:.0%} the first ones: shorten '
    'it by training.average.warmup=true, or a smaller decay or half-life'
  )

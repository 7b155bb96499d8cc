"""Networks of noisy images as a config describes them: what they see, and what they compute."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Self, TypedDict

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.laws import law_of
from diffusion_jax.app.kinds.learned import LogVariance
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.denoiser import NetworkFn, NoiseInput
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.core.process import Variance
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.data.spec import Facts
from diffusion_jax.declared import Declared, declared_by, declares
from diffusion_jax.errors import UserError
from diffusion_jax.networks import functional
from diffusion_jax.networks.inputs import ContextEncoder, Inputs, Text
from diffusion_jax.ranges import Probability
from diffusion_jax.testing import floors, oracles
from diffusion_jax.training import augmentation, objectives
from diffusion_jax.training.conditions import ImageCondition

# -- what a network sees --------------------------------------------------------


class ObjectiveFacts(TypedDict):
  """The parameters of objectives that follow from the rest of a config.

  schedule: None for a learned schedule; teacher: (frozen, cond) -> Denoiser.
  """

  network: dj.Network
  schedule: dj.Schedule | None
  make_schedule: Callable[..., dj.Schedule]
  schedule_steps: int
  total_steps: int
  num_levels: int
  sigma_data: float
  sigma_min: float | None
  sigma_max: float | None
  rho: float | None
  teacher: Callable[..., dj.Denoiser] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
  """How data are noised, and how a network sees that.

  schedule: without its parameters if it is learned; noise_input: the input of
  the network for a level, NoiseLevel -> [B]; steps: of the schedule, 1000 in continuous time.
  """

  schedule: dj.Schedule
  parametrization: Parametrization
  noise_input: NoiseInput
  steps: int

  @classmethod
  def of(cls, config: Node) -> Self:
    """Makes the process of a config."""
    schedule = config.schedule.make()
    steps = num_steps_of(schedule) or 1000
    parametrization = Parametrization('flow')
    if 'parametrization' in config:
      parametrization = config.parametrization.make()
    noise_input = config.noise_input.make({'schedule_steps': steps})
    return cls(schedule, parametrization, noise_input, steps)

  @functools.cached_property
  def gamma(self) -> nn.Module | None:
    """The Flax module of a schedule that is trained, or None."""
    schedule = self.schedule
    while isinstance(schedule, dj.ShiftedSchedule):
      schedule = schedule.schedule
    module = getattr(getattr(schedule, 'gamma_fn', None), 'module', None)
    return module if getattr(module, 'learned', False) else None

  @property
  def is_learned(self) -> bool:
    """Whether the parameters have a branch 'schedule'."""
    return self.gamma is not None

  def init(self, key: jax.Array) -> Params:
    """Returns {'schedule': first parameters}; {} if it is not learned."""
    if self.gamma is None:
      return {}
    return {'schedule': self.gamma.init(key, jnp.zeros(1))['params']}

  def with_params(self, params: Params | None = None) -> dj.Schedule:
    """Returns the schedule, t -> NoiseLevel, with what a run has trained.

    params: all parameters of the run; a learned schedule needs them, and raises
    UserError without them.
    """
    if not self.is_learned:
      return self.schedule
    if params is None:
      raise UserError(
        'config.schedule=learned has values in a trained run only: '
        'objective=vdm trains it, schedule.gamma=fixed needs no run'
      )
    return _with_params(self.schedule, params['schedule'])

  def kind_without_signal(self) -> str:
    """Returns the parametrization if it needs a signal, and the schedule ends without; or ''."""
    kind = self.parametrization.kind
    if self.is_learned or kind not in ('eps', 'score'):
      return ''
    # One program for all runs with such a schedule, unless it is not a pytree.
    is_leaf = jax.tree_util.all_leaves([self.schedule])
    last = jax.jit(lambda: self.schedule(1.0))() if is_leaf else _at_end(self.schedule)
    return kind if last.alpha == 0.0 else ''


_at_end = jax.jit(lambda schedule: schedule(1.0))


def _with_params(schedule, params):
  if isinstance(schedule, dj.ShiftedSchedule):
    inner = _with_params(schedule.schedule, params)
    return dataclasses.replace(schedule, schedule=inner)
  return dataclasses.replace(schedule, params=params)


@declares(fields={'augment': 'pictures', 'self_conditioning': 'levels'})
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
  """Says what the network sees besides x_t and its level."""

  labels: bool | None = None  # the class; None: if data.labelled or data.num_classes ask for it
  text: Text | None = None  # a sentence
  image: ImageCondition | None = None  # an image computed from the example
  # real numbers that the data have for each example, as the network reads them;
  # auto: by their shape (docs/arrays.md); if_any: auto for data with a context,
  # None for others
  context: ContextEncoder | None = None
  # probability that training hides labels, text, image and context; None: 0.1
  # with labels=None that the data ask for, else 0
  dropout: Probability | None = None
  self_conditioning: bool = False  # the previous estimate of x_0 (Chen et al. 2022)
  augment: Probability = 0.0  # probability of each of EDM's augmentations, which the network sees

  def __post_init__(self):
    given = self.labels, self.text, self.image, self.context
    if self.dropout and not any(given):
      raise ValueError(
        f'dropout={self.dropout} has no effect without labels, text, image or context: set it to 0'
      )
    if self.augment and self.image is not None:
      raise ValueError(
        'augment changes the images that image shows unchanged: set augment=0 or image=None'
      )


# -- the network ----------------------------------------------------------------

# The fields that ask for inputs of the network.
_ASKED = {
  'label': 'conditioning.labels',
  'text': 'conditioning.text',
  'image': 'conditioning.image',
  'context': 'conditioning.context',
  'x0': 'conditioning.self_conditioning',
  'augment': 'conditioning.augment',
  'elapsed': 'objective',
  'guidance_scale': 'objective.guidance',
  'valid': 'data (whose examples have lengths)',
}


@dataclasses.dataclass(frozen=True, eq=False)
class ConfiguredNetwork:
  """A network of noisy images with its process, as a config describes them.

  Its parts are made when they are first used; only then are mistakes in their
  sections found.

  It is what metrics of a diffusion model measure, as `likelihoods.DiffusionModel`.

  state_shape: the shape of what is diffused. channels: of the output of
  `network`; None: the state's, and twice as many with a learned variance.
  apply_fn: `network` -> the function that is trained. losses: what the metric
  `loss` computes, see `metrics.losses`. autoencoder: of latents, () -> theirs.
  """

  config: Node
  facts: Facts
  conditioning: Conditioning
  state_shape: tuple[int, ...]
  channels: int | None = None
  apply_fn: Callable[[nn.Module], NetworkFn] = functional.network_fn
  losses: Callable[..., Callable] | None = None
  autoencoder: Callable[[], Any] | None = None

  @classmethod
  def of(cls, config: Node, facts: Facts, **more: Any) -> Self:
    """Makes the network of a config, in pixels unless `more` has a shape."""
    conditioning = Conditioning()
    if 'conditioning' in config.schema.parts:
      conditioning = config.conditioning.make()
    shape: dict[str, Any] = {'state_shape': facts.x.shape}
    return cls(config, facts, conditioning, **shape | more)

  @property
  def out_channels(self) -> int:
    """The number of channels of the output of `network`."""
    return self.channels or (1 + self.needs.learned_variance) * self.state_shape[-1]

  @functools.cached_property
  def process(self) -> Process:
    """How the data are noised, and how the network sees that."""
    return Process.of(self.config)

  def schedule(self, params: Params | None = None) -> dj.Schedule:
    """Returns the schedule of the process; see `Process.with_params`."""
    return self.process.with_params(params)

  @property
  def schedule_steps(self) -> int:
    """The number of steps of the schedule; 1000 in continuous time."""
    return self.process.steps

  @property
  def level_axes(self) -> int:
    """How many leading axes of x have levels of their own: 2 with levels of elements."""
    return 1 if self.config.objective.get('levels') is None else 2

  @property
  def holds_known(self) -> bool:
    """Whether samples hold given elements of x at their clean level.

    Of a network that reads a context sampling.context has this.
    """
    of_numbers = self.config.get('latent') is None and self.config.get('states') is None
    return self.level_axes == 2 and of_numbers and 'context' not in self.reads

  @property
  def has_lengths(self) -> bool:
    """Whether examples have lengths, beyond which the network sees nothing."""
    return bool(self.facts.lengths)

  @property
  def levels_differ(self) -> bool:
    """Whether noisy elements of an example have different levels in training."""
    return self.level_axes == 2 and not self.config.objective.levels.declared.one_noisy_level

  @property
  def shared(self) -> int:
    """How many neighbours share a level."""
    return self.config.objective.levels.get('size', 1) if self.level_axes == 2 else 1

  @property
  def starts_noisy(self) -> bool:
    """Whether the schedule has noise at t = 0, as a learned one has."""
    return self.process.is_learned or float(self.process.schedule(0.0).sigma) > 0.0

  @property
  def reverse_variance(self) -> Variance:
    """The variance of the reverse process, from the sampler's section."""
    sampler = self.config.sampling.get('sampler') or {}
    return sampler.get('variance', 'fixed_small')

  @functools.cached_property
  def needs(self) -> Declared:
    """What the objective, with its guidance, needs of the network."""
    objective = self.config.objective
    if (guidance := objective.get('guidance')) is None:
      return objective.declared
    return objective.declared._replace(guidance_scale=guidance.declared.guidance_scale)

  @functools.cached_property
  def inputs(self) -> Inputs:
    """What the network takes besides x and its level."""
    c = self.conditioning
    if c.labels and not self.facts.num_classes:
      name = sections.label_field(self.config.data)
      without = 'conditioning.labels=False' + ' and conditioning.dropout=0' * bool(c.dropout)
      raise UserError(
        'config.conditioning.labels needs data of classes, and these have no '
        f'labels: set {sections.LABELS[name]} or {without}'
      )
    return _inputs_of(c, self.facts, self.needs)

  @property
  def reads(self) -> tuple[str, ...]:
    """What the network reads besides x_t and its level, names of `floors.READ`."""
    c = self.conditioning
    conditions = {
      'label': c.labels,
      'context': c.context is not None and self.facts.context is not None,
      'text': c.text is not None,
      'image': c.image is not None,
    }
    return tuple(name for name, is_read in conditions.items() if is_read)

  @functools.cached_property
  def law(self) -> oracles.Mixture | None:
    """The law of the numbers of x as the network sees them, [D]; None where it is not declared."""
    return None if self.reads else law_of(self.config.data, self.facts)

  @functools.cached_property
  def infinite_floors(self) -> tuple[floors.ExactLine, ...]:
    """The exact denoisers without a finite loss on held-out examples, `floors.infinite_lines`."""
    objective, process = self.config.objective, self.process
    weight, times = objective.get('weight'), objective.get('times')
    if not (isinstance(weight, Node) and isinstance(times, Node)) or process.is_learned:
      return ()
    if not times.declared.reaches_clean or times.get('t_min'):
      return ()
    kind, sigma_data = process.parametrization
    of_x0 = weight.make({'sigma_data': sigma_data})
    return floors.infinite_lines(of_x0, process.schedule, kind)

  @functools.cached_property
  def network(self) -> nn.Module:
    """The Flax module, with the inputs that config and objective need."""
    return _build(self)

  def given(self) -> dj.Network:
    """Returns the network, with what it predicts and its noise input."""
    process = self.process
    return dj.Network(
      self.apply_fn(self.network),
      process.noise_input,
      parametrization=process.parametrization.kind,
      sigma_data=process.parametrization.sigma_data,
      learned_variance=self.needs.learned_variance,
      time_scale=self.config.noise_input.get('scale', 1.0),
      level_axes=self.level_axes,
    )

  def trained(self, test: bool = False) -> dj.Network:
    """Returns the network with its conditions and augmentation in training.

    With `test` it draws nothing: it has no dropout, routes and augmentation, and hides no
    condition, which cond['drop'] says.
    """
    c, network = self.conditioning, self.given()
    if test:
      network = dataclasses.replace(network, apply=functional.without_key(network.apply))
    augment = None
    if c.augment and not test:
      augment = functools.partial(augmentation.augment, probability=c.augment)
    has_text, has_context = c.text is not None, c.context is not None
    condition = objectives.make_condition(
      bool(c.labels), c.dropout or 0.0, c.image, has_text, has_context, valid=self.has_lengths
    )
    if test and c.dropout:
      condition = functools.partial(_with_nothing_hidden, condition)
    return dataclasses.replace(
      network,
      condition=condition,
      augment=augment,
      self_conditioning=c.self_conditioning,
      estimate_probability=1.0 if test else 0.5,
    )

  def denoiser(self, params: Params, cond: dict) -> dj.Denoiser:
    """Returns the network's denoiser, without guidance and clipping."""
    return self.given().denoiser(params['network'], self.inputs.among(cond))

  @property
  def clips(self) -> bool:
    """Whether sampling bounds x_0; by default estimates of levels, but not of latents."""
    by_default = self.facts.x.levels and self.config.get('latent') is None and self.needs.estimates
    bound = self.config.sampling.get('bound')
    return bound is not None and (bound.name != 'auto' or bool(by_default))

  def logits(self, params: Params) -> Callable[..., jax.Array]:
    """Returns (x_t, level) -> logits [B, num_classes] of a classifier."""
    network = self.given()
    return lambda xt, level: network.output(params['network'], xt, level, {})

  def init(self, key: jax.Array) -> Params:
    """Returns the first parameters, {'network': ..., ...}; can be traced."""
    key, gamma_key = jax.random.split(key)
    params = {'network': _first_weights(self, key)}
    params |= self.process.init(gamma_key)
    if self.uncertainty is not None:
      key = jax.random.fold_in(gamma_key, 1)
      params['uncertainty'] = self.uncertainty.init(key)
    return params | self.own_parameters(jax.random.fold_in(gamma_key, 2))

  def own_parameters(self, key: jax.Array) -> Params:
    """Returns the first parameters of a user's own objective; UserError for wrong names."""
    section = self.config.objective
    if ':' not in section.name:
      return {}
    # No parameters depend on a teacher, which sampling does not open.
    facts = self.objective_facts(self.trained(test=True), lambda frozen, cond: None)
    own = section.make(facts).parameters(key)
    if not isinstance(own, dict) or not {*own}.isdisjoint(_NAMES):
      given = ', '.join(own) if isinstance(own, dict) else type(own).__name__
      raise UserError(
        f'config.objective={section.name}: parameters(key) must return a dict of names other than '
        f'{", ".join(_NAMES)}, not {given}'
      )
    return own

  def objective_facts(self, network: dj.Network, teacher: Callable | None) -> ObjectiveFacts:
    """Returns the parameters of objectives that follow from the rest of the config.

    network: what the objective is of.
    """
    schedule, process = self.config.schedule, self.process
    return ObjectiveFacts(
      network=network,
      schedule=None if process.is_learned else self.schedule(),
      make_schedule=self.schedule,
      schedule_steps=process.steps,
      total_steps=self.config.training.num_steps,
      num_levels=self.facts.x.levels,
      sigma_data=process.parametrization.sigma_data,
      sigma_min=schedule.get('sigma_min'),
      sigma_max=schedule.get('sigma_max'),
      rho=schedule.get('rho'),
      teacher=teacher,
    )

  @property
  def uncertainty(self) -> LogVariance | None:
    """EDM2's u(sigma), which is trained with the network."""
    section = self.config.objective.get('uncertainty')
    return None if section is None else section.make()

  def prior_sample(self, keys: jax.Array, level: dj.NoiseLevel) -> jax.Array:
    """Draws pure noise for each of the keys [B], at the noisiest level."""
    return dj.prior_sample(keys, (*keys.shape, *self.state_shape), level)

  def context_code(self, params: Params, rows: dict) -> dict:
    """Returns the network's code of {'context': ...}; {} without an encoder."""
    return functional.encode_context(self.network, params['network'], rows, self.state_shape)


# Parameters that an objective of the user's may not name.
_NAMES = 'network', 'schedule', 'uncertainty', 'autoencoder', 'teacher'


def _with_nothing_hidden(condition, key, batch):
  cond = condition(key, batch)
  return cond | {'drop': jnp.zeros_like(cond['drop'])}


def refusals_of(noisy: ConfiguredNetwork) -> tuple[Row, ...]:
  """Returns the rules about what only the network and its process know."""
  return (
    Row(
      lambda c, facts: noisy.process.kind_without_signal(),
      'config.parametrization={it}: the schedule has no signal at t = 1, where {it} does not '
      'determine x_0: set parametrization=v or x0',
    ),
    Row(
      lambda c, facts: (
        c.at('training.start.rank') and jax.eval_shape(noisy.own_parameters, abstract_key())
      ),
      'config.training.start=adapters trains only those, and objective={c.objective.name} has '
      'parameters of its own: set training.start=weights',
    ),
    Row(
      lambda c, facts: not noisy.levels_differ,
      'config.sampling.order starts each element at its own step, and the network has one level '
      'for all that is noisy: train it with objective.levels=independent or in_turn',
      section='sampling.order',
    ),
    Row(
      lambda c, facts: _moves_all(c),
      'config.sampling.order starts each element at its own step, and sampler='
      '{c.sampling.sampler.name} has one level for all: take another sampler or no order',
      section='sampling.order',
    ),
    Row(
      lambda c, facts: noisy.holds_known and c.sampling.context and _moves_all(c),
      'config.sampling.context has elements that stay at their own level, and sampler='
      '{c.sampling.sampler.name} has one level for all: take another sampler or no context',
    ),
    Row(
      lambda c, facts: (
        noisy.holds_known and c.at('conditioning.context.name') not in (None, 'if_any')
      ),
      'config.conditioning.context={c.conditioning.context.name}: with objective.levels what '
      'samples are given is in x: set context=None, and data.joint=True for a simulator',
    ),
    Row(
      lambda c, facts: not noisy.holds_known,
      'samples that hold no elements, for which objective.levels is set in pixels and '
      'conditioning.context is None',
      fields=('sampling.stride',),
      advice='leave it out',
    ),
    Row(
      lambda c, facts: (c.sampling.get('stride') or 0) > noisy.state_shape[0],
      'config.sampling.stride={c.sampling.stride} is above the length of a window, '
      '{facts.x.shape[0]}: take a smaller one',
    ),
    Row(
      lambda c, facts: noisy.shared * bool(noisy.shared % c.network.get('patch_size', 1)),
      'config.network.patch_size={c.network.patch_size}: the elements of a patch need one level, '
      'and {it} neighbours share one: set it to 1, or train with objective.levels=independent and '
      'objective.levels.size a multiple of it',
      section='objective.levels',
    ),
    Row(
      lambda c, facts: noisy.state_shape[0] % noisy.shared,
      'config.objective.levels.size={c.objective.levels.size} does not divide the '
      '{facts.x.shape[0]} elements of an example',
      section='objective.levels',
    ),
    Row(
      lambda c, facts: c.objective.levels.get('parameters', 0) >= noisy.state_shape[0],
      'config.objective.levels.parameters={c.objective.levels.parameters} must be less than the '
      '{facts.x.shape[0]} elements of an example: the others are what is observed',
      section='objective.levels',
    ),
    Row(
      lambda c, facts: _absent_height(c.network, noisy.state_shape),
      'config.network.attention_resolutions: no feature map has the {it}, and () is attention '
      'in the middle only',
      ('train',),
    ),
  )


def _moves_all(c):
  return c.sampling.sampler.declared.one_level or c.sampling.sampler.get('brownian')


def _inputs_of(c, facts, needs):
  x0 = jax.ShapeDtypeStruct((1, *facts.x.shape), jnp.float32)
  channels, context = 0, {}
  if c.image is not None:  # what the network sees of x_0
    with from_config('conditioning.image'):
      channels = jax.eval_shape(c.image, abstract_key(), x0).shape[-1]
  if c.context is not None and facts.context is not None:
    shape = facts.context.shape
    context = {'context': shape, 'context_encoder': c.context}
  return Inputs(
    num_classes=facts.num_classes if c.labels else 0,
    null_class=bool(c.dropout),
    text=c.text,
    image_channels=channels,
    self_conditioning=c.self_conditioning,
    augment_dim=augmentation.NUM_LABELS if c.augment else 0,
    elapsed=needs.map_kind == 'average_velocity',
    guidance_scale=needs.guidance_scale,
    valid=bool(facts.lengths),
    **context,
  )


def _build(noisy):
  c, section = noisy.config, noisy.config.network
  takes = getattr(section.constructor, 'takes', ())
  for name, field in _ASKED.items():
    if name in noisy.inputs.names and name not in takes:
      table = noisy.config.schema.table('network')
      able = [n for n, c in table.items() if name in getattr(c, 'takes', ())]
      is_own = ':' in section.name
      able = ' or '.join(able) + (', or name it in `takes`' * is_own)
      raise UserError(
        f'config.{field} needs a network with the input {name}, which '
        f'{section.name} does not have: set network to {able}'
      )
  if noisy.level_axes > 1 and not section.declared.element_levels:
    able = [
      n for n, c in noisy.config.schema.table('network').items() if declared_by(c).element_levels
    ]
    raise UserError(
      f'config.objective.levels needs a network with a level for each element, which '
      f'{section.name} does not have: set network to {" or ".join(able)}'
    )
  classes = noisy.facts.num_classes
  if 'num_classes' in section.needs and classes < 2:
    raise UserError(
      'config.network=classifier needs images of two or more classes: set '
      f'{sections.LABELS[sections.label_field(c.data)]}'
    )
  network = section.make(
    {
      'out_channels': noisy.out_channels,
      'in_channels': noisy.state_shape[-1],
      'inputs': noisy.inputs,
      'num_classes': classes,
      'gamma_min': c.schedule.get('gamma_min'),
      'gamma_max': c.schedule.get('gamma_max'),
    }
  )
  needed = getattr(network, 'noise_input', None)
  if needed not in (None, noisy.config.noise_input.name):
    raise UserError(f'network {section.name!r} needs config.noise_input={needed}')
  if noisy.needs.forward_mode and section.get('attention') == 'auto':
    # Others have no forward mode.
    return functional.clone(network, attention='xla')
  return network


def _first_weights(noisy, key):
  x = jnp.zeros((1, *noisy.state_shape))
  rngs = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
  cond = noisy.inputs.example()
  noise = jnp.zeros(x.shape[: noisy.level_axes])
  output, variables = noisy.network.init_with_output(rngs, x, noise, cond)
  shape = 1, noisy.facts.num_classes
  if 'out_channels' in noisy.config.schema.facts['network']:
    shape = *x.shape[:-1], noisy.out_channels
  if not isinstance(output, jax.Array) or output.shape != shape:
    raise UserError(
      f'config.network: its output for x of the shape {list(x.shape)} must be '
      f'an array {list(shape)}, and it is {kind_of(output)}'
    )
  if others := variables.keys() - {'params'}:
    raise UserError(
      f'config.network={noisy.config.network.name!r} keeps {min(others)}, '
      'which changes outside training: a network has parameters only'
    )
  return variables['params']


def _absent_height(section, shape):
  """Returns which height of attention no feature map has, and those that are."""
  heights = section.get('attention_resolutions')
  if not heights or ':' in section.name:
    return ''
  levels = range(len(section.get('multipliers', (1,))))
  sides = shape[:-1]
  if any(side % 2 ** (len(levels) - 1) for side in sides):
    return ''  # The network says that they cannot be halved.
  maps = [[side // 2**level for side in sides] for level in levels]
  is_flat = len(sides) == 2
  possible = [m[0] if is_flat else math.prod(m) for m in maps]
  absent = [h for h in heights if h not in possible]
  if not absent:
    return ''
  what, of = ('height', '') if is_flat else ('number', ' of positions')
  return f'{what}{of} {absent[0]}; the {what}s are {", ".join(map(str, possible))}'

"""Models whose network sees a noisy image and its level."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.app import constructors, images
from diffusion_jax.app.config import tables
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.fields import Conditioning
from diffusion_jax.app.config.kinds import ObjectiveFacts
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import IDENTITY, Model, Params
from diffusion_jax.core.denoiser import NetworkFn, NoiseInput
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.errors import UserError
from diffusion_jax.networks import functional
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.training import augmentation, conditions
from diffusion_jax.training.objectives import Needs, Objective, needs_of

# The fields that ask for inputs of the network.
_ASKED = {
  'label': 'conditioning.labels',
  'text': 'conditioning.text',
  'image': 'conditioning.image',
  'x0': 'conditioning.self_conditioning',
  'augment': 'conditioning.augment',
  'elapsed': 'objective',
  'guidance_scale': 'objective.guidance',
}


class NoisyModel(Model):
  """Base class of all models of noisy images; see `Model`."""

  sampling = None
  latents = IDENTITY

  def __init__(self, config: Node, workdir: str | Path, facts: images.Facts):
    self.config, self.workdir, self.facts = config, Path(workdir), facts
    self.state_shape: tuple[int, ...] = facts.image_shape
    self.conditioning = Conditioning()
    if 'conditioning' in self.schema.parts:
      self.conditioning = config.conditioning.make()

  # -- the process ------------------------------------------------------------

  def schedule(self, params: Params | None = None) -> dj.Schedule:
    """Returns the schedule, t -> NoiseLevel.

    params: parameters of the run; a learned schedule needs them, and raises
    UserError without them.
    """
    schedule = self._schedule
    if not self.learns_schedule:
      return schedule
    if params is None:
      raise UserError(
        'config.schedule=learned has values in a trained run only: '
        'objective=vdm trains it, schedule.gamma=fixed needs no run'
      )
    return _with_params(schedule, params['schedule'])

  @functools.cached_property
  def _schedule(self):
    return self.config.schedule.make()

  @property
  def learns_schedule(self) -> bool:
    """Whether the parameters have a branch 'schedule'."""
    gamma = constructors.gamma_of(self._schedule)
    return gamma is not None and gamma.learned

  @property
  def schedule_steps(self) -> int:
    """The number of steps of the schedule; 1000 in continuous time."""
    return constructors.num_steps_of(self._schedule) or 1000

  @functools.cached_property
  def parametrization(self) -> Parametrization:
    """The quantity that the network predicts."""
    if 'parametrization' not in self.config:
      return Parametrization('flow')
    return self.config.parametrization.make()

  @functools.cached_property
  def noise_input(self) -> NoiseInput:
    """The input of the network for a level, NoiseLevel -> [B]."""
    return self.config.noise_input.make({'schedule_steps': self.schedule_steps})

  # -- the network ------------------------------------------------------------

  @functools.cached_property
  def network(self) -> nn.Module:
    """The Flax module, with the inputs that the conditioning needs."""
    section = self.config.network
    takes = getattr(section.constructor, 'takes', ())
    for name, field in _ASKED.items():
      if name in self.inputs.names and name not in takes:
        able = [n for n, c in tables.DENOISERS.items() if name in c.takes]
        own = ', or name it in `takes`' if ':' in section.name else ''
        raise UserError(
          f'config.{field} needs a network with the input {name}, which '
          f'{section.name} does not have: set network to {" or ".join(able)}'
          f'{own}'
        )
    network = section.make(self.network_facts())
    needed = getattr(network, 'noise_input', None)
    if needed not in (None, self.config.noise_input.name):
      raise UserError(
        f'network {section.name!r} needs config.noise_input={needed}'
      )
    return network

  @functools.cached_property
  def inputs(self) -> Inputs:
    """What the network takes besides x and its level."""
    c, text = self.conditioning, self.conditioning.text
    if c.labels and not self.facts.num_classes:
      raise UserError(
        'config.conditioning.labels needs images of classes, and these have '
        'none: set it to False'
      )
    return Inputs(
      num_classes=self.facts.num_classes if c.labels else 0,
      null_class=c.dropout > 0.0,
      text=None if text is None else Text(text.width, text.layers, text.heads),
      image_channels=self._image_channels(),
      self_conditioning=c.self_conditioning,
      augment_dim=augmentation.NUM_LABELS if c.augment else 0,
    )

  def network_facts(self) -> Mapping[str, object]:
    """Returns the parameters of the network that are not fields."""
    section = self.config.schedule
    return {
      'out_channels': (1 + self.learned_variance) * self.state_shape[-1],
      'inputs': self.inputs,
      'gamma_min': section.get('gamma_min'),
      'gamma_max': section.get('gamma_max'),
    }

  @property
  def needs(self) -> Needs:
    """What the objective needs of the network."""
    return needs_of(self.config.objective.constructor)

  @property
  def learned_variance(self) -> bool:
    """Whether the objective trains the variance of the reverse process."""
    return self.needs.learned_variance

  def _image_channels(self):
    image = self.conditioning.image
    if image is None:
      return 0
    x0 = jax.ShapeDtypeStruct((1, *self.facts.image_shape), jnp.float32)
    with from_config('conditioning.image'):
      return jax.eval_shape(image, abstract_key(), x0).shape[-1]

  def network_fn(self, network: nn.Module | None = None) -> NetworkFn:
    """Returns (params, x, noise, cond, *, key=None) -> the network's output."""
    return functional.network_fn(network or self.network)

  def init(self, key: jax.Array) -> Params:
    """Returns the first parameters, {'network': ..., ...}; can be traced."""
    key, gamma_key = jax.random.split(key)
    x = jnp.zeros((1, *self.state_shape))
    variables = self.network.init(key, x, jnp.zeros(1), self.inputs.example())
    params = {'network': variables['params']}
    if self.learns_schedule:
      gamma = constructors.gamma_of(self._schedule)
      params['schedule'] = gamma.init(gamma_key, jnp.zeros(1))['params']
    uncertainty = self.uncertainty
    if uncertainty is not None:
      params['uncertainty'] = uncertainty.init(jax.random.fold_in(gamma_key, 1))
    return params

  # -- training ---------------------------------------------------------------

  def objective(self, test: bool = False) -> Objective:
    """Returns the loss; `test`: without dropout and augmentation."""
    objective = self.config.objective.make(self.objective_facts(test))
    constraints = {}
    if hasattr(self.network, 'constrain'):
      constraints['network'] = self.network.constrain
    if self.uncertainty is not None:
      constraints['uncertainty'] = self.uncertainty.constrain
    if not constraints:
      return objective

    def constrain(params):
      params = objective.constrain(params)
      return params | {n: f(params[n]) for n, f in constraints.items()}

    return dataclasses.replace(objective, constrain=constrain)

  def objective_facts(self, test: bool = False) -> ObjectiveFacts:
    """Returns the parameters of the objective that are not fields."""
    section = self.config.schedule
    return ObjectiveFacts(
      network=self.trained_network(test),
      schedule=None if self.learns_schedule else self.schedule(),
      make_schedule=self.schedule,
      schedule_steps=self.schedule_steps,
      total_steps=self.config.training.num_steps,
      num_levels=self.facts.num_levels,
      sigma_data=self.parametrization.sigma_data,
      sigma_min=section.get('sigma_min'),
      sigma_max=section.get('sigma_max'),
      rho=section.get('rho'),
      teacher=self.teacher(),
    )

  def given_network(self, network: nn.Module | None = None) -> dj.Network:
    """Returns the network, with what it predicts and its noise input."""
    return dj.Network(
      self.network_fn(network),
      self.noise_input,
      parametrization=self.parametrization.kind,
      sigma_data=self.parametrization.sigma_data,
      learned_variance=self.learned_variance,
      time_scale=self.time_scale,
    )

  def trained_network(self, test: bool = False) -> dj.Network:
    """Returns the network with its conditions and augmentation in training."""
    c, network = self.conditioning, self.network
    if test and hasattr(network, 'dropout'):
      network = network.clone(dropout=0.0)
    augment = None
    if c.augment and not test:
      augment = functools.partial(augmentation.augment, probability=c.augment)
    condition = conditions.make_condition(
      c.labels, 0.0 if test else c.dropout, c.image, c.text is not None
    )
    return dataclasses.replace(
      self.given_network(network),
      condition=condition,
      augment=augment,
      self_conditioning=c.self_conditioning,
      estimate_probability=1.0 if test else 0.5,
    )

  @property
  def time_scale(self) -> float:
    """The factor of t in the network's input, and of elapsed time."""
    return self.config.noise_input.get('scale', 1.0)

  @property
  def uncertainty(self) -> constructors.LogVariance | None:
    """EDM2's u(sigma), which is trained with the network."""
    section = self.config.objective.get('uncertainty')
    return None if section is None else section.make()

  def teacher(self) -> Callable[[Params, dict], dj.Denoiser] | None:
    """Returns (frozen, cond) -> Denoiser of training.teacher; None without."""
    return None

  # -- refusals ---------------------------------------------------------------

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what schedule, network or device does not allow."""
    if not self.learns_schedule:
      yield from self._end_problems()
    if mode == 'train':
      yield from self._height_problems()

  def _end_problems(self):
    # A program, not single operations; a schedule need not be a pytree.
    schedule = self.schedule()
    last = jax.jit(lambda: schedule(1.0))()
    kind = self.parametrization.kind
    if kind in ('eps', 'score') and last.alpha == 0.0:
      yield (
        f'config.parametrization={kind}: the schedule has no signal at t = 1, '
        f'where {kind} does not determine x_0: set parametrization=v or x0'
      )

  def _height_problems(self):
    heights = self.config.network.get('attention_resolutions')
    if not heights or ':' in self.config.network.name:
      return
    levels = len(self.config.network.get('multipliers', (1,)))
    height = self.state_shape[0]
    possible = [height // 2**level for level in range(levels)]
    absent = [h for h in heights if h not in possible]
    if absent:
      yield (
        f'config.network.attention_resolutions: no feature map has the height '
        f'{absent[0]}; the heights are {", ".join(map(str, possible))}, and () '
        'is attention in the middle only'
      )


def _with_params(schedule, params):
  if isinstance(schedule, dj.ShiftedSchedule):
    inner = _with_params(schedule.schedule, params)
    return dataclasses.replace(schedule, schedule=inner)
  return dataclasses.replace(schedule, params=params)

"""What a network sees, as a config describes it: the noise of a process, and conditions."""

import dataclasses
import functools
from typing import Self

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.core.denoiser import NoiseInput
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.declared import declares
from diffusion_jax.errors import UserError
from diffusion_jax.networks.inputs import ContextEncoder, Text
from diffusion_jax.ranges import Probability
from diffusion_jax.training.conditions import ImageCondition


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
  # some numbers of the example, for any conditional of a joint distribution
  # (docs/inference.md)
  known: ImageCondition | None = None
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
    if self.known is not None and self.context is not None:
      raise ValueError(
        'known=subsets has the context in x: set context=None, and data.joint=True for a simulator'
      )
    if self.augment and self.image is not None:
      raise ValueError(
        'augment changes the images that image shows unchanged: set augment=0 or image=None'
      )

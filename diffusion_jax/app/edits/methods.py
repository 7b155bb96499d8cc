"""Methods by which an edit fills in what its picture does not show."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.model import Model, Plan
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import NonNegative, Size

# Fields of sampling that methods with steps of their own do not read.
STEPS = 'sampler', 'churn', 'ancestral_noise', 'corrector'


class Task(NamedTuple):
  """A batch of an edit.

  plan: of the run's parameters and guides. keys: [B]; inputs: the user's
  pictures in the form that is diffused, for each of the images; cond; and
  weight, of an interpolation. decode: what is diffused -> images.
  """

  model: Model
  plan: Plan
  keys: jax.Array
  inputs: dict[str, PyTree]
  decode: Callable[[jax.Array], jax.Array]


class Batch(NamedTuple):
  """What images are drawn from; keys: [B]; cond: of B images."""

  plan: Plan
  keys: jax.Array
  cond: dict


class Known(NamedTuple):
  """What a picture [B, ...] shows of the result.

  mask: of the known pixels; None: the picture is observe(x_0). condition: what
  a network that was trained for the task sees of it.
  """

  image: jax.Array
  condition: jax.Array
  mask: jax.Array | None = None
  observe: Callable[[jax.Array], jax.Array] | None = None


@dataclass(frozen=True)
class Method(abc.ABC):
  """A way to draw images that are known in part."""

  keeps: ClassVar = False  # It puts the known pixels into x between steps.

  @abc.abstractmethod
  def draw(self, batch: Batch, known: Known) -> jax.Array:
    """Returns images of a batch, as the model diffuses them."""


@dataclass(frozen=True)
class Repaint(Method):
  """Goes back up `jump` steps and down, num_resamples times (RePaint).

  jump: None: 10, or in a short grid all steps but one.
  """

  num_resamples: Size = 10
  jump: Size | None = None

  keeps: ClassVar = True

  def draw(self, batch: Batch, known: Known) -> jax.Array:
    mask = known.mask
    assert mask is not None  # `fitting` refuses

    def repaint(sampler, levels):
      jump = self.jump or max(1, min(10, len(levels.t) - 2))
      with from_config('edit.method'):
        levels = dj.repaint_levels(levels, self.num_resamples, jump)
      return dj.repaint(sampler, known.image, mask), levels

    return batch.plan.from_noise(batch.keys, batch.cond, wrap=repaint)


@dataclass(frozen=True)
class Replace(Method):
  """Replaces the known pixels after each step, noised to its level."""

  keeps: ClassVar = True

  def draw(self, batch: Batch, known: Known) -> jax.Array:
    def replace(sampler, levels):
      sampler = batch.plan.replace_known(sampler, known.image, known.mask)
      return sampler, levels

    return batch.plan.from_noise(batch.keys, batch.cond, wrap=replace)


@dataclass(frozen=True)
class Reconstruction(Method):
  """Guides by what is known, `scale` times as strongly (1 is Bayes' rule).

  iterations: of conjugate gradients, each a gradient through the network.
  """

  scale: NonNegative = 1.0
  iterations: Size = 4

  def draw(self, batch: Batch, known: Known) -> jax.Array:
    settings = self.scale, self.iterations

    def guided(denoise):
      if known.mask is not None:
        shown = known.image, known.mask
        return dj.reconstruction_guided(denoise, *shown, *settings)
      assert known.observe is not None
      shown = known.observe, known.image
      return dj.observation_guided(denoise, *shown, *settings)

    plan, keys, cond = batch
    return plan.from_noise(keys, cond, after_guidance=guided)


@dataclass(frozen=True)
class Palette(Method):
  """Samples a network that was trained on such pictures (Palette)."""

  def draw(self, batch: Batch, known: Known) -> jax.Array:
    cond = batch.cond | {'image': known.condition}
    return batch.plan.from_noise(batch.keys, cond)


def condition_of(model: Model) -> str | None:
  """Returns the edit that the network was trained for, if any."""
  section = model.config.conditioning.image
  return None if section is None else section.name


def fitting(model: Model, method: Method | None, masked: bool) -> Method:
  """Returns the given method, or else the one that fits a run.

  masked: whether the edit has a mask. Raises UserError for a method that the
  edit or the run does not allow.
  """
  condition, edit = condition_of(model), model.config.edit
  table = model.schema.table('edit.method')
  able = [n for n, maker in table.items() if masked or not maker.keeps]
  name = edit.method.name if method else 'palette' if condition else able[0]
  chosen: Method = method or {**table, 'palette': Palette}[name]()
  if chosen.keeps and not masked:
    raise UserError(
      f'config.edit.method={name} needs a mask: set it to '
      f'{" or ".join(able)} for edit={edit.name}'
    )
  if isinstance(chosen, Palette) != bool(condition):
    needed = edit.name if isinstance(chosen, Palette) else 'None'
    raise UserError(
      f'config.edit.method={name} needs a run with conditioning.image='
      f'{needed}, and this one has {condition}'
    )
  if chosen.keeps:
    refuse_unipc(model, f'method={name}')
  return chosen


def refuse_unipc(model: Model, what: str) -> None:
  """Raises UserError for the sampler that `replace_known` does not allow."""
  sampler = model.config.sampling.get('sampler')
  if sampler is not None and sampler.constructor is dj.unipc:
    raise UserError(
      f'config.edit.{what} changes x between steps, which '
      'sampling.sampler=unipc would undo: take another sampler'
    )

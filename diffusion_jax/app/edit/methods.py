"""Methods by which an edit fills in what its picture does not show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds.sampling import Plan, Wrap
from diffusion_jax.data.spec import Facts
from diffusion_jax.declared import declares
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import Size

# Fields of sampling that methods with steps of their own do not read.
STEPS = 'sampler', 'churn', 'ancestral_noise', 'corrector'
Array = jax.Array


class Edited(Protocol):
  """What an edit reads of a model: its config, and the facts of its data."""

  @property
  def config(self) -> Node:
    """The complete config."""
    ...

  @property
  def facts(self) -> Facts:
    """The facts of the data."""
    ...


class Batch(NamedTuple):
  """A batch of an edit.

  plan: of the run's parameters and guides. keys: [B]; cond: of B images;
  inputs: the user's pictures in the form that is diffused, for each of them,
  and weight, of an interpolation. decode: what is diffused -> images.
  """

  plan: Plan
  keys: Array
  cond: dict
  inputs: Mapping[str, PyTree] = MappingProxyType({})
  decode: Callable[[Array], Array] = lambda x: x

  def sampled(self, after_guidance: Wrap | None = None, **changes: object) -> dict[str, Array]:
    """Returns {'x': samples [B, ...]}; changes: of fields of the plan."""
    plan = self.plan._replace(**changes)
    return {'x': plan.from_noise(self.keys, self.cond, after_guidance)}


@dataclass(frozen=True, eq=False)
class Known(dj.Measurement):
  """What is known of x_0, [B, ...].

  is_linear: whether `forward` is linear. width: the least noise of y, in units of x.
  mask: where y is x_0 itself. condition: the input of a network that was trained
  for the edit, made of y.
  """

  is_linear: bool = True
  width: float = 0.0
  mask: Array | None = None
  condition: Array | None = None


class Method(NamedTuple):
  """A way to draw images that are known in part.

  draw: batch, known -> x [B, ...], and what else is known of each image, [B].
  is_trained: it needs a network that was trained for the edit. needs_mask: y
  must be x_0 itself where it is known. needs_linear: y must be linear in x_0.
  in_latents: latents can be decoded for it. changes_x: it changes x between
  steps. takes_white: it takes Cov[x_0 | x_t] for r^2 I. unread: fields of
  sampling without effect. note: what the user should know.
  """

  draw: Callable[[Batch, Known], dict[str, Array]]
  is_trained: bool = False
  needs_mask: bool = False
  needs_linear: bool = False
  in_latents: bool = False
  changes_x: bool = False
  takes_white: bool = False
  unread: tuple[str, ...] = ()
  note: str = ''


@declares(
  what=(
    '`repaint(sampler, known, mask)` on `repaint_levels(levels, num_resamples, jump)` '
    '(Lugmayr et al. 2022)'
  ),
  exact_for='nothing',
)
def repaint(num_resamples: Size = 10, jump: Size | None = None) -> Method:
  """Goes back up `jump` steps and down, num_resamples times (RePaint).

  jump: None: 10, or in a short grid all steps but one.
  """

  def draw(batch, known):
    plan = batch.plan
    count = jump or max(1, min(10, len(plan.levels.t) - 2))
    with from_config('edit.method'):
      levels = dj.repaint_levels(plan.levels, num_resamples, count)
    sampler = dj.repaint(plan.sampler, known.y, known.mask)
    return batch.sampled(sampler=sampler, levels=levels)

  return Method(draw, needs_mask=True, changes_x=True)


@declares(what='`replace_known(sampler, known, mask)` (Song et al. 2021)', exact_for='nothing')
def replace() -> Method:
  """Replaces the known pixels after each step, noised to its level."""

  def draw(batch, known):
    plan = batch.plan
    sampler = plan.replace_known(plan.sampler, known.y, known.mask)
    return batch.sampled(sampler=sampler)

  return Method(draw, needs_mask=True, changes_x=True)


@declares(what="`cond['image']` (Saharia et al. 2022)")
def palette() -> Method:
  """Samples a network that was trained on such pictures (Palette)."""

  def draw(batch, known):
    cond = batch.cond | {'image': known.condition}
    return batch._replace(cond=cond).sampled()

  return Method(draw, is_trained=True)


def condition_of(config: Node) -> str | None:
  """Returns the edit that the network was trained for, if any."""
  return config.at('conditioning.image.name')


def method_name(config: Node) -> str:
  """Returns the name of edit.method, or of the first method that fits the run."""
  return config.at('edit.method.name') or _first_fitting(config)


def _first_fitting(config):
  is_trained, has_mask = bool(condition_of(config)), not config.edit.constructor.observes
  for name, make in config.schema.table('edit.method').items():
    method = make()
    if method.is_trained == is_trained and (has_mask or not method.needs_mask):
      return name
  raise UserError(f'config.edit={config.edit.name}: this run has no method for it')


def fitting(config: Node) -> Method:
  """Returns the method that fits a run if edit.method is None."""
  return config.schema.table('edit.method')[_first_fitting(config)]()

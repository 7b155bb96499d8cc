"""Methods by which an edit fills in what its picture does not show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.model import Model, Plan, Wrap
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import NonNegative, Size

# Fields of sampling that methods with steps of their own do not read.
STEPS = 'sampler', 'churn', 'ancestral_noise', 'corrector'
Array = jax.Array


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

  is_linear: whether `forward` is. width: the least noise of y, in units of x.
  mask: where y is x_0 itself. condition: what a network that was trained for
  the edit sees of y.
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


def replace() -> Method:
  """Replaces the known pixels after each step, noised to its level."""

  def draw(batch, known):
    plan = batch.plan
    sampler = plan.replace_known(plan.sampler, known.y, known.mask)
    return batch.sampled(sampler=sampler)

  return Method(draw, needs_mask=True, changes_x=True)


def reconstruction(scale: NonNegative = 1.0, iterations: Size = 4) -> Method:
  """Guides by what is known, `scale` times as strongly (1 is Bayes' rule).

  iterations: of conjugate gradients, each a gradient through the network.
  """

  def draw(batch, known):
    own = known.forward, known.y, scale, iterations, known.std
    return batch.sampled(lambda denoise: dj.observation_guided(denoise, *own))

  return Method(draw, needs_linear=True)


def palette() -> Method:
  """Samples a network that was trained on such pictures (Palette)."""

  def draw(batch, known):
    cond = batch.cond | {'image': known.condition}
    return batch._replace(cond=cond).sampled()

  return Method(draw, is_trained=True)


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
  able = [n for n, make in table.items() if masked or not make().needs_mask]
  name = edit.method.name if method else 'palette' if condition else able[0]
  chosen: Method = method or {**table, 'palette': palette}[name]()
  if chosen.needs_mask and not masked:
    raise UserError(
      f'config.edit.method={name} needs a mask: set it to {" or ".join(able)} for edit={edit.name}'
    )
  if chosen.is_trained != bool(condition):
    needed = edit.name if chosen.is_trained else 'None'
    raise UserError(
      f'config.edit.method={name} needs a run with conditioning.image='
      f'{needed}, and this one has {condition}'
    )
  if chosen.changes_x:
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

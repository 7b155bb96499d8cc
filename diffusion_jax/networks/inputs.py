"""What a network takes besides x and the noise level."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from diffusion_jax.declared import declares
from diffusion_jax.networks.options import check_fields
from diffusion_jax.ranges import Count, Size, check_choice

Array = jax.Array

STEP_INPUTS = 'elapsed', 'guidance_scale'


class Text(NamedTuple):
  """Lets the network read texts, byte by byte, with a small Transformer.

  length: the largest number of bytes; width, layers and heads are of the
  Transformer, `TextFeatures`.
  """

  width: Size = 64
  layers: Count = 2
  heads: Size = 4
  length: Size = 64


ContextKind = Literal['vector', 'set', 'words', 'channels']


@declares(data='context')
class ContextEncoder(NamedTuple):
  """Says how the network reads a context, an array of real numbers.

  kind: 'vector': all numbers are the input of a small MLP, whose output is
  added to the embedding of the noise; 'set': so is the mean of the outputs of
  an MLP for the entries of the first axis, in any order; 'words': [N, C] is a
  sequence for a small Transformer, and the network attends to its outputs;
  'channels': an array on the grid of x, which joins its channels; 'auto': see
  `Inputs.context_kind`. width and layers are of the MLP or Transformer, heads
  of the latter.
  """

  kind: Literal['auto', 'vector', 'set', 'words', 'channels'] = 'auto'
  width: Size = 128
  layers: Size = 2
  heads: Size = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """The inputs of a network besides x and noise, which are entries of cond.

  They are 'label' [B] of num_classes (0: none), 'text' and 'text_mask' for an
  encoder (`TextFeatures`), 'image' [B, H, W, image_channels], 'x0', an earlier
  estimate of x_0, 'augment' [B, augment_dim], 'elapsed' [B] and
  'guidance_scale' [B] of flow maps, 'valid' [B, N], False at what pads the first
  axis of x, and 'context' [B, *context], standardised real numbers, read by
  `context_encoder`. In place of the latter cond may have
  its encoding, 'context_code' (`functional.encode_context`). With `null_class`
  label, text and context may be missing, and hidden where 'drop' [B] is True.
  """

  num_classes: Count = 0
  null_class: bool = False
  text: Text | None = None
  image_channels: Count = 0
  self_conditioning: bool = False
  augment_dim: Count = 0
  elapsed: bool = False
  guidance_scale: bool = False
  valid: bool = False
  context: tuple[Size, ...] = ()
  context_encoder: ContextEncoder = ContextEncoder()

  def __post_init__(self):
    check_fields(self)
    kind, *_ = self.context_encoder
    check_choice('context_encoder.kind', kind, ('auto', *get_args(ContextKind)))

  @property
  def names(self) -> Collection[str]:
    """The entries that cond may have."""
    entries = {
      'label': self.num_classes,
      'text': self.text,
      'text_mask': self.text,
      'image': self.image_channels,
      'x0': self.self_conditioning,
      'augment': self.augment_dim,
      'elapsed': self.elapsed,
      'guidance_scale': self.guidance_scale,
      'valid': self.valid,
      'context': self.context,
      'context_code': self.context,
      'drop': self.num_classes or self.text or self.image_channels or self.context,
    }
    return [name for name, given in entries.items() if given]

  def among(self, cond: dict) -> dict:
    """Returns the entries of cond that are inputs of the network."""
    return {name: x for name, x in cond.items() if name in self.names}

  def example(self, batch_size: int = 1) -> dict[str, Array]:
    """Returns a cond with the entries from which parameters follow."""
    cond = {name: jnp.ones(batch_size) for name in STEP_INPUTS}
    cond['label'] = jnp.zeros(batch_size, jnp.int32)
    cond['text'] = jnp.ones((batch_size, 1), jnp.int32)
    cond['context'] = jnp.zeros((batch_size, *self.context))
    return {name: x for name, x in cond.items() if name in self.names}

  def check(self, cond: dict, *others: str) -> None:
    """Raises ValueError for a missing or an unknown entry of cond.

    others: the names of further entries that the network knows.
    """
    for name in STEP_INPUTS:
      if name in self.names and name not in cond:
        raise ValueError(f"the network needs cond['{name}'] [B], as it was trained with it")
    unknown = {*cond} - {*self.names, *others}
    if unknown:
      raise ValueError(f'the network has no condition {sorted(unknown)}')
    if self.num_classes:
      check_not_null(cond, 'label', 'class', self.null_class)
    if self.text:
      check_not_null(cond, 'text', 'text', self.null_class)
    if self.context:
      given = {'context': context_of(cond), 'drop': cond.get('drop')}
      check_not_null(given, 'context', 'context', self.null_class)
      context = cond.get('context')
      shape = self.context if context is None else context.shape[1:]
      if tuple(shape) != tuple(self.context):
        raise ValueError(
          f"each cond['context'] has the shape {list(shape)}, but the network "
          f'needs {list(self.context)}'
        )

  def context_kind(self, sides: Sequence[int]) -> ContextKind:
    """Returns how the context of x [B, *sides, C] is read.

    It is 'vector' for one axis, 'channels' on the grid of x, and 'words' for
    two axes, unless `context_encoder` has another kind. Raises ValueError for a
    shape that does not fit.
    """
    kind, shape = self.context_encoder.kind, list(self.context)
    on_grid = shape[:-1] == [*sides]
    if kind == 'auto':
      if len(shape) == 1:
        return 'vector'
      if on_grid:
        return 'channels'
      if len(shape) == 2:
        return 'words'
      raise ValueError(
        f'a context of the shape {shape} is neither a vector nor words [N, C] '
        f'nor on the grid {[*sides]} of x: set context_encoder.kind to '
        "'vector' or 'set'"
      )
    needed = {'channels': on_grid, 'words': len(shape) == 2}
    needed['set'] = len(shape) > 1
    if not needed.get(kind, True):
      form = {
        'channels': f'{[*sides]} and channels, as x has',
        'words': '[N, C]',
        'set': '[N, ...]',
      }
      raise ValueError(
        f'context_encoder.kind={kind!r} needs contexts of the shape {form[kind]}, not {shape}'
      )
    return kind


def context_of(cond: dict) -> Array | None:
  """Returns the encoded context of cond or else the context, if it has one."""
  return cond.get('context_code', cond.get('context'))


def check_not_null(cond: dict, name: str, what: str, has_null: bool) -> None:
  """Raises ValueError if `name` is missing or hidden without a null row."""
  if not has_null and (cond.get(name) is None or cond.get('drop') is not None):
    raise ValueError(
      f"the network has no null {what}: cond needs '{name}' and must not "
      f"contain 'drop' (train with label dropout to get a null {what})"
    )

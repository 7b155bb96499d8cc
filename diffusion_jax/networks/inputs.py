"""What a network takes besides x and the noise level."""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.networks.options import check_fields
from diffusion_jax.ranges import Count, Size

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """The inputs of a network besides x and noise, which are entries of cond.

  They are 'label' [B] of num_classes (0: none), 'text' and 'text_mask' for an
  encoder (`TextFeatures`), 'image' [B, H, W, image_channels], 'x0', an earlier
  estimate of x_0, 'augment' [B, augment_dim], and 'elapsed' [B] and
  'guidance_scale' [B] of flow maps. With `null_class` the first two may be
  missing, and hidden where 'drop' [B] is True.
  """

  num_classes: Count = 0
  null_class: bool = False
  text: Text | None = None
  image_channels: Count = 0
  self_conditioning: bool = False
  augment_dim: Count = 0
  elapsed: bool = False
  guidance_scale: bool = False

  def __post_init__(self):
    check_fields(self)

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
      'drop': self.num_classes or self.text or self.image_channels,
    }
    return [name for name, given in entries.items() if given]

  def example(self, batch_size: int = 1) -> dict[str, Array]:
    """Returns a cond with the entries from which parameters follow."""
    cond = {name: jnp.ones(batch_size) for name in STEP_INPUTS}
    cond['label'] = jnp.zeros(batch_size, jnp.int32)
    cond['text'] = jnp.ones((batch_size, 1), jnp.int32)
    return {name: x for name, x in cond.items() if name in self.names}

  def check(self, cond: dict, *others: str) -> None:
    """Raises ValueError for a missing or an unknown entry of cond.

    others: the names of further entries that the network knows.
    """
    for name in STEP_INPUTS:
      if name in self.names and name not in cond:
        raise ValueError(
          f"the network needs cond['{name}'] [B], as it was trained with it"
        )
    unknown = {*cond} - {*self.names, *others}
    if unknown:
      raise ValueError(f'the network has no condition {sorted(unknown)}')
    if self.num_classes:
      check_not_null(cond, 'label', 'class', self.null_class)
    if self.text:
      check_not_null(cond, 'text', 'text', self.null_class)


def check_not_null(cond: dict, name: str, what: str, has_null: bool) -> None:
  """Raises ValueError if `name` is missing or hidden without a null row."""
  if not has_null and (cond.get(name) is None or cond.get('drop') is not None):
    raise ValueError(
      f"the network has no null {what}: cond needs '{name}' and must not "
      f"contain 'drop' (train with label dropout to get a null {what})"
    )

"""Residual blocks of U-Nets, of any number of spatial axes.

The defaults are the layers of Ho et al. 2020. Options give the layers of OpenAI
(Nichol & Dhariwal 2021, Dhariwal & Nichol 2021) and of DDPM++ (Song et al.
2021, Karras et al. 2022). Parameters and norms are float32; other computations
have the type `dtype`.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.cpu.half import times
from diffusion_jax.networks.layers import Conv, GroupNorm, add_bias, dense
from diffusion_jax.networks.options import Checked, Dtype, Initialization, count_groups, maybe_remat
from diffusion_jax.ranges import Positive, Rate, Size

Array = jax.Array
MakePart = Callable[[Array, int, str], Array]  # (h, level, name) -> h


def concatenate(a: Array, b: Array) -> Array:
  """Returns the channels of a, then of b."""
  return jnp.concatenate([a, b], axis=-1)


class ResnetBlock(Checked):
  """Adds to its input: norm, swish, conv, norm, swish, dropout, conv.

  x: [B, ..., C], embedding: [B, E] -> [B, ..., features]. The projected
  embedding is added after the first convolution; None adds nothing. The
  shortcut is a linear projection if the width changes (Ho et al. 2020). With
  `scale_shift` the embedding gives (scale, shift), and the second norm becomes
  norm * (1 + scale) + shift (Nichol & Dhariwal 2021). `resample`, such as
  `average_pool`, is applied before the first convolution and to the shortcut
  (Dhariwal & Nichol 2021). With `zero_embedding` the projection of the
  embedding has no bias and starts at 0 (Kingma et al. 2021).

  Options of DDPM++: groups of the norms have at least `group_width` channels,
  `project_resampled` projects the shortcut of every block with `resample`, and
  the sum is multiplied by `skip_scale`.
  """

  features: Size
  dropout: Rate = 0.0
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  scale_shift: bool = False
  resample: Callable[[Array], Array] | None = None
  zero_embedding: bool = False
  group_width: Size = 1
  project_resampled: bool = False
  skip_scale: float = 1.0
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, embedding: Array | None, train: bool) -> Array:

    def norm(h, name):
      groups = count_groups(self.num_groups, h.shape[-1], self.group_width)
      return GroupNorm(groups, self.norm_eps, self.dtype, name=name)(h)

    h = nn.swish(norm(x, 'norm_1'))
    if self.resample is not None:
      h, x = self.resample(h), self.resample(x)
    h = Conv(self.features, **self.style, name='conv_1')(h)
    if embedding is None:
      h = norm(h, 'norm_2')
    else:
      h = self._with_embedding(h, embedding, norm)
    h = nn.swish(h)
    h = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(h)
    h = Conv(self.features, zero=True, **self.style, name='conv_2')(h)
    resampled = self.project_resampled and self.resample is not None
    if resampled or x.shape[-1] != self.features:
      x = dense(x, self.features, 'shortcut', **self.style)
    return self.skip_scale * (x + h)

  def _with_embedding(self, h, embedding, norm):
    # Returns the second norm, which depends on the embedding.
    width = self.features * (2 if self.scale_shift else 1)
    zero = self.zero_embedding
    embedding = nn.swish(embedding)
    embedding = dense(
      embedding, width, 'embedding_proj', zero=zero, use_bias=not zero, **self.style
    )
    embedding = embedding.reshape(h.shape[0], *[1] * (h.ndim - 2), -1)
    if not self.scale_shift:
      return norm(add_bias(h, embedding), 'norm_2')
    scale, shift = jnp.split(embedding, 2, axis=-1)
    h = norm(h, 'norm_2')
    return add_bias(times(h, 1.0 + scale), shift)


def make_block(
  block: type[nn.Module], network: Any, name: str, **options: Any
) -> Callable[..., Array]:
  """Returns the submodule `name`: a `ResnetBlock`, `Attention` or similar.

  The block takes the network's values for fields of the same name (num_groups,
  dropout, dtype, ...); options override them. With `network.remat` the backward
  pass recomputes the block (`maybe_remat`).
  """
  shared = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(block)
    if field.name not in ('name', 'parent') and hasattr(network, field.name)
  }
  # `train` is a Python bool. Arguments are counted from self.
  takes_train = 'train' in inspect.signature(block.__call__).parameters
  static = (3,) if takes_train else ()
  kind = maybe_remat(block, network, static_argnums=static)
  return kind(**shared | options, name=name)


def encode(
  h: Array, num_levels: int, num_blocks: int, block: MakePart, halve: MakePart
) -> list[Array]:
  """Returns the feature maps of a U-Net's encoder, from its first, h, on.

  A level applies block(h, level, name) num_blocks times; between two levels is
  halve(h, level, name).
  """
  maps = [h]
  for level in range(num_levels):
    for i in range(num_blocks):
      maps.append(block(maps[-1], level, f'down_{level}_{i}'))
    if level < num_levels - 1:
      maps.append(halve(maps[-1], level, f'down_{level}_downsample'))
  return maps


def decode(
  h: Array,
  maps: list[Array],
  num_levels: int,
  num_blocks: int,
  block: MakePart,
  double: MakePart,
  join: Callable[[Array, Array], Array] = concatenate,
) -> Array:
  """Returns the output of a U-Net's decoder, whose input is h.

  Each block takes h joined with one of the encoder's maps, the last first.
  double(h, level, name) is between two levels.
  """
  maps = [*maps]
  for level in reversed(range(num_levels)):
    for i in range(num_blocks):
      h = block(join(h, maps.pop()), level, f'up_{level}_{i}')
    if level > 0:
      h = double(h, level, f'up_{level}_upsample')
  return h


def output_conv(network: Any, features: int, h: Array) -> Array:
  """Returns norm, swish and a convolution that begins at 0, always float32.

  The network gives num_groups, norm_eps and initializer. The submodules are
  norm_out and conv_out.
  """
  norm = GroupNorm(network.num_groups, network.norm_eps, name='norm_out')
  conv = Conv(features, initializer=network.initializer, zero=True, name='conv_out')
  return conv(nn.swish(norm(h)))

"""The U-Net of Ho et al. 2020, optionally with class labels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.embeddings import LabelEmbedding, sinusoidal
from diffusion_jax.networks.layers import (
  Attention,
  Conv,
  Downsample,
  ResnetBlock,
  Upsample,
  default_init,
  group_norm,
)

Array = jax.Array


class UNet(nn.Module):
  """U-Net: x [B, H, W, C], noise [B] -> [B, H, W, out_channels].

  The defaults are DDPM's for CIFAR-10, 35,746,307 parameters. H and W must be
  multiples of 2^(levels - 1); attention follows every block whose feature maps
  have a height in `attention_resolutions`. With num_classes > 0,
  cond['label'] [B] is embedded and added to the noise embedding; `null_class`
  adds the row for cond['drop'] (see `LabelEmbedding`).
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  num_blocks: int = 2
  attention_resolutions: Sequence[int] = (16,)
  dropout: float = 0.1
  out_channels: int = 3
  num_groups: int = 32
  num_classes: int = 0
  null_class: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, noise: Array, cond: dict | None = None, *, train=False
  ) -> Array:
    self._check(x, cond or {})
    embedding = self._embed(x.shape[0], noise, cond or {})
    last = len(self.multipliers) - 1

    def block(h, level, name):
      width = self.channels * self.multipliers[level]
      h = ResnetBlock(
        width, self.dropout, self.num_groups, self.dtype, name=f'{name}_block'
      )(h, embedding, train)
      if h.shape[1] in self.attention_resolutions:
        h = self._attention(f'{name}_attention')(h)
      return h

    h = Conv(self.channels, dtype=self.dtype, name='conv_in')(x)
    skips = [h]
    for level in range(last + 1):
      for i in range(self.num_blocks):
        h = block(h, level, f'down_{level}_{i}')
        skips.append(h)
      if level < last:
        h = Downsample(self.dtype, name=f'down_{level}_downsample')(h)
        skips.append(h)

    width = self.channels * self.multipliers[last]
    middle = (width, self.dropout, self.num_groups, self.dtype)
    h = ResnetBlock(*middle, name='middle_0_block')(h, embedding, train)
    h = self._attention('middle_attention')(h)
    h = ResnetBlock(*middle, name='middle_1_block')(h, embedding, train)

    for level in reversed(range(last + 1)):
      for i in range(self.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, level, f'up_{level}_{i}')
      if level > 0:
        h = Upsample(self.dtype, name=f'up_{level}_upsample')(h)

    h = nn.swish(group_norm(self.num_groups, name='norm_out')(h))
    return Conv(self.out_channels, init_scale=0.0, name='conv_out')(h)

  def _attention(self, name):
    return Attention(self.num_groups, self.dtype, name=name)

  def _embed(self, batch_size, noise, cond):
    h = sinusoidal(noise, self.channels)
    for i in range(2):
      h = nn.Dense(
        4 * self.channels,
        kernel_init=default_init(),
        dtype=self.dtype,
        name=f'noise_dense_{i + 1}',
      )(nn.swish(h) if i else h)
    if self.num_classes:
      h += LabelEmbedding(
        self.num_classes,
        4 * self.channels,
        self.null_class,
        self.dtype,
        name='label_embedding',
      )(cond, batch_size)
    return h

  def _check(self, x, cond):
    factor = 2 ** (len(self.multipliers) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(
        f'images of {x.shape[1]}x{x.shape[2]} cannot be halved '
        f'{len(self.multipliers) - 1} times: sides must be multiples of '
        f'{factor}, or network.multipliers shorter'
      )
    unknown = set(cond) - ({'label', 'drop'} if self.num_classes else set())
    if unknown:
      raise ValueError(f'this network has no condition {sorted(unknown)}')

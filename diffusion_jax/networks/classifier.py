"""The classifier of noisy images of Dhariwal & Nichol 2021."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.attention import Attention, attend
from diffusion_jax.networks.blocks import ResnetBlock, encode, make_block
from diffusion_jax.networks.embeddings import noise_layers, sinusoidal
from diffusion_jax.networks.layers import (
  Conv,
  Downsample,
  GroupNorm,
  average_pool,
  dense,
)
from diffusion_jax.networks.options import (
  QKV,
  Checked,
  DownsamplePadding,
  Dtype,
  Initialization,
  Multipliers,
  Sinusoids,
  check_sides,
  count_heads,
)
from diffusion_jax.ranges import Positive, Rate, Size, at_least

Array = jax.Array


class NoisyClassifier(Checked):
  """Computes logits [B, K], float32, of noisy images x [B, H, W, C].

  The layers are the encoder and the middle of `UNet`, with its options, then
  norm, swish and `AttentionPool` to K = num_classes logits. noise: [B]. cond
  must be empty. Width and depth depend on the size of the images; the other
  defaults are the paper's.
  """

  num_classes: Annotated[int, at_least(2)]
  channels: Size = 128
  multipliers: Multipliers = (1, 2, 2, 2)
  num_blocks: Size = 2
  attention_resolutions: Sequence[Size] = (16, 8)
  dropout: Rate = 0.0
  num_groups: Size = 32
  stem_channels: Size | None = None
  noise_embedding: Sinusoids = 'openai'
  scale_shift: bool = True
  resblock_updown: bool = True
  downsample_padding: DownsamplePadding = 'symmetric'
  num_heads: Size = 1
  head_channels: Size | None = None
  qkv: QKV = 'new'
  norm_eps: Positive = 1e-5
  initializer: Initialization = 'torch'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, noise: Array, cond: dict | None = None, *, train=False
  ) -> Array:
    check_sides(x, len(self.multipliers))
    if cond:
      raise ValueError(f'the network has no condition {sorted(cond)}')
    widths = [int(self.channels * m) for m in self.multipliers]
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_layers(h, 4 * self.channels, **self.style)

    def residual(h, level, name, resample=None):
      options = {'features': widths[level], 'resample': resample}
      return make_block(ResnetBlock, self, name, **options)(h, embedding, train)

    def attention(h, name):
      return make_block(Attention, self, name)(h)

    def block(h, level, name):
      h = residual(h, level, f'{name}_block')
      attends = h.shape[1] in self.attention_resolutions
      return attention(h, f'{name}_attention') if attends else h

    def halve(h, level, name):
      if self.resblock_updown:
        return residual(h, level, name, average_pool)
      return Downsample(self.downsample_padding, **self.style, name=name)(h)

    stem = self.channels if self.stem_channels is None else self.stem_channels
    h = Conv(stem, **self.style, name='conv_in')(x)
    h = encode(h, len(widths), self.num_blocks, block, halve)[-1]
    h = residual(h, -1, 'middle_0_block')
    h = attention(h, 'middle_attention')
    h = residual(h, -1, 'middle_1_block')

    # The last layers are always float32.
    norm = GroupNorm(self.num_groups, self.norm_eps, name='norm_out')
    pool = AttentionPool(
      self.num_classes,
      self.num_heads,
      self.head_channels,
      self.initializer,
      name='pool',
    )
    return pool(nn.swish(norm(h)))


class AttentionPool(Checked):
  """Pools images by attention: [B, H, W, C] -> [B, features].

  The mean of the pixels is put before them as one more token, a learned
  embedding of the position is added to each, and the attention of the first
  token to all is mapped to features (Radford et al. 2021; Dhariwal & Nichol
  2021). For the heads see `Attention`, whose layout 'new' is used. The input of
  the last layer, [B, C], is sown as 'hidden'.
  """

  features: Size
  num_heads: Size = 1
  head_channels: Size | None = None
  initializer: Initialization = 'ho'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, channels = x.shape
    tokens = x.reshape(batch, height * width, channels)
    tokens = jnp.concatenate(
      [tokens.mean(axis=1, keepdims=True), tokens], axis=1
    )
    places = self.param(
      'places',
      nn.initializers.normal(channels**-0.5),
      tokens.shape[1:],
      jnp.float32,
    )
    tokens += places[None]
    heads = count_heads(self.num_heads, self.head_channels, channels)
    qkv = dense(tokens, 3 * channels, 'qkv', initializer=self.initializer)
    q, k, v = jnp.moveaxis(
      qkv.reshape(*tokens.shape[:2], 3, heads, channels // heads), 2, 0
    )
    h = attend(q[:, :1], k, v).reshape(batch, channels)
    if not self.is_initializing():
      self.sow('hidden', 'pooled', h)
    return dense(h, self.features, 'proj_out', initializer=self.initializer)

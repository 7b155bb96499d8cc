"""The classifier of noisy images of Dhariwal & Nichol 2021."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.embeddings import (
  SINUSOIDS,
  check_conditions,
  noise_layers,
  sinusoidal,
)
from diffusion_jax.networks.layers import (
  Attention,
  Conv,
  Downsample,
  ResnetBlock,
  average_pool,
  check_options,
  check_sides,
  dense,
  group_norm,
  make_block,
)

Array = jax.Array


class NoisyClassifier(nn.Module):
  """Computes logits [B, K], float32, of noisy images x [B, H, W, C].

  The layers are the encoder and the middle of `UNet`, with its options, then
  norm, swish and `AttentionPool` to K = num_classes logits. noise: [B]; cond
  must be empty. The defaults are the paper's except width and depth, which
  depend on the size of the images.
  """

  num_classes: int
  channels: int = 128
  multipliers: Sequence[float] = (1, 2, 2, 2)
  num_blocks: int = 2
  attention_resolutions: Sequence[int] = (16, 8)
  dropout: float = 0.0
  num_groups: int = 32
  stem_channels: int | None = None
  noise_embedding: str = 'openai'
  scale_shift: bool = True
  resblock_updown: bool = True
  downsample_padding: str = 'symmetric'
  num_heads: int = 1
  head_channels: int | None = None
  qkv: str = 'new'
  norm_eps: float = 1e-5
  initializer: str = 'torch'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    check_options(self, noise_embedding=SINUSOIDS)

  @nn.compact
  def __call__(
    self, x: Array, noise: Array, cond: dict | None = None, *, train=False
  ) -> Array:
    check_sides(x, len(self.multipliers))
    check_conditions(cond or {})
    style = {'initializer': self.initializer, 'dtype': self.dtype}
    widths = [int(self.channels * m) for m in self.multipliers]
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_layers(h, 4 * self.channels, **style)

    def residual(h, width, name, resample=None):
      options = {'features': width, 'resample': resample}
      block = make_block(ResnetBlock, self, name, **options)
      return block(h, embedding, train)

    def attention(h, name):
      return make_block(Attention, self, name)(h)

    stem = self.channels if self.stem_channels is None else self.stem_channels
    h = Conv(stem, **style, name='conv_in')(x)
    for level, width in enumerate(widths):
      for i in range(self.num_blocks):
        h = residual(h, width, f'down_{level}_{i}_block')
        if h.shape[1] in self.attention_resolutions:
          h = attention(h, f'down_{level}_{i}_attention')
      name = f'down_{level}_downsample'
      if level == len(widths) - 1:
        break
      if self.resblock_updown:
        h = residual(h, width, name, average_pool)
      else:
        h = Downsample(self.downsample_padding, **style, name=name)(h)
    h = residual(h, widths[-1], 'middle_0_block')
    h = attention(h, 'middle_attention')
    h = residual(h, widths[-1], 'middle_1_block')

    # The last layers are always float32.
    norm = group_norm(self.num_groups, name='norm_out', epsilon=self.norm_eps)
    pool = AttentionPool(
      self.num_classes,
      self.num_heads,
      self.head_channels,
      self.initializer,
      name='pool',
    )
    return pool(nn.swish(norm(h)))


class AttentionPool(nn.Module):
  """Pools images by attention: [B, H, W, C] -> [B, features].

  The mean of the pixels is put before them as one more token, a learned
  embedding of the position is added to each, and the attention of the first
  token to all is mapped to features (Radford et al. 2021; Dhariwal & Nichol
  2021). Heads are those of `Attention`, and the layout is its 'new'.
  """

  features: int
  num_heads: int = 1
  head_channels: int | None = None
  initializer: str = 'ho'

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
    heads = self.num_heads
    if self.head_channels is not None:
      heads = channels // self.head_channels
    qkv = dense(tokens, 3 * channels, 'qkv', initializer=self.initializer)
    q, k, v = jnp.moveaxis(
      qkv.reshape(*tokens.shape[:2], 3, heads, channels // heads), 2, 0
    )
    h = jax.nn.dot_product_attention(q[:, :1], k, v).reshape(batch, channels)
    return dense(h, self.features, 'proj_out', initializer=self.initializer)

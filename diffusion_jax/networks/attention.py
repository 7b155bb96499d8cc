"""Attention over the positions of a grid, and from positions to words.

Parameters, norms and softmax are float32; other computations have the type
`dtype`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.layers import GroupNorm, dense
from diffusion_jax.networks.options import (
  QKV,
  AttentionImplementation,
  Checked,
  Dtype,
  Initialization,
  count_groups,
  count_heads,
)
from diffusion_jax.networks.tokens import attend
from diffusion_jax.ranges import Positive, Size

Array = jax.Array


class Attention(Checked):
  """Adds self-attention over all positions to its input.

  x: [B, ..., C] -> [B, ..., C]. The softmax is float32. `head_channels`, if
  given, replaces the number of heads by C / head_channels; both must divide C.
  `qkv`: 'separate' projections (Ho et al. 2020), or one projection to 3C
  channels in the order [heads, qkv, C / heads] ('legacy') or [qkv, heads,
  C / heads] ('new'), both from OpenAI's checkpoints, or [heads, C / heads, qkv]
  ('interleaved', from EDM's). `qkv_scale` multiplies the variance of their
  initial weights. `group_width` and `skip_scale`: see `ResnetBlock`. Without
  `pre_norm` the input is not normalised. `implementation`: see `attend`.
  """

  num_heads: Size = 1
  head_channels: Size | None = None
  qkv: QKV = 'separate'
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  group_width: Size = 1
  qkv_scale: float = 1.0
  skip_scale: float = 1.0
  pre_norm: bool = True
  implementation: AttentionImplementation = 'xla'
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    channels = x.shape[-1]
    h = x
    if self.pre_norm:
      groups = count_groups(self.num_groups, channels, self.group_width)
      h = GroupNorm(groups, self.norm_eps, self.dtype, name='norm')(x)
    h = h.reshape(len(x), -1, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)
    split = heads, channels // heads
    if self.qkv == 'separate':
      q, k, v = (
        dense(h, channels, name, scale=self.qkv_scale, **self.style).reshape(
          *h.shape[:2], *split
        )
        for name in ('query', 'key', 'value')
      )
    else:
      fused = dense(h, 3 * channels, 'qkv', scale=self.qkv_scale, **self.style)
      place = {'new': 0, 'legacy': 1, 'interleaved': 2}[self.qkv]
      layout = (*split[:place], 3, *split[place:])
      fused = fused.reshape(*h.shape[:2], *layout)
      q, k, v = jnp.moveaxis(fused, 2 + place, 0)
    h = attend(q, k, v, implementation=self.implementation)
    h = dense(h, channels, 'proj_out', zero=True, **self.style)
    return self.skip_scale * (x + h.reshape(x.shape))


class CrossAttention(Checked):
  """Adds attention from the positions to words.

  x: [B, ..., C], text: [B, L, D], mask: bool [B, L], True at words, at least
  one in each row -> [B, ..., C]. The softmax is float32, and words where the
  mask is False have weight 0. Queries are projections of the normalised x,
  keys and values are projections of `text` (Rombach et al. 2022, Section 3.3).
  Heads and options are described in `Attention`.
  """

  num_heads: Size = 1
  head_channels: Size | None = None
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, text: Array, mask: Array) -> Array:
    channels = x.shape[-1]
    h = GroupNorm(self.num_groups, self.norm_eps, self.dtype, name='norm')(x)
    h = h.reshape(len(x), -1, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)

    def project(a, name):
      a = dense(a, channels, name, **self.style)
      return a.reshape(*a.shape[:2], heads, channels // heads)

    q, k, v = project(h, 'query'), project(text, 'key'), project(text, 'value')
    h = attend(q, k, v, mask)
    h = dense(h, channels, 'proj_out', zero=True, **self.style)
    return x + h.reshape(x.shape)

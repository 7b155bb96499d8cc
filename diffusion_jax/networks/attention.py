"""Attention over the positions of a grid, and from positions to words.

Parameters, norms and softmax are float32; other computations have the type
`dtype`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from diffusion_jax.networks.layers import GroupNorm, dense
from diffusion_jax.networks.options import (
  HALF,
  QKV,
  AttentionImplementation,
  Checked,
  Dtype,
  Initialization,
  count_groups,
  count_heads,
  has_size,
)
from diffusion_jax.networks.placement import has_cudnn_attention, on_one_device
from diffusion_jax.ranges import Positive, Size

Array = jax.Array


def attend(
  q: Array,
  k: Array,
  v: Array,
  mask: Array | None = None,
  implementation: AttentionImplementation = 'xla',
) -> Array:
  """Returns softmax(q k^T / sqrt(d)) v, its heads side by side: [B, T, D].

  q: [B, T, heads, d], k and v: [B, L, heads, d]; mask: bool [B, L], or [B, T, L] or
  [1, T, L] of each query, False at tokens of weight 0. The softmax is float32.
  implementation: 'xla' or 'cudnn', see `jax.nn.dot_product_attention`; 'auto' is
  'cudnn' for half precision without a mask, on GPUs that have it
  (`placement.has_cudnn_attention`). cuDNN has no forward-mode derivative, and needs
  8, 16, ... 128 channels a head.
  """
  size = q.shape[-1]
  fits = size % 8 == 0 and size <= 128
  if implementation == 'auto':
    cudnn = fits and q.dtype in HALF and mask is None and has_cudnn_attention()
    implementation = 'cudnn' if cudnn else 'xla'
  elif implementation == 'cudnn' and not fits:
    raise ValueError(
      f"attention='cudnn' needs heads of 8, 16, ... 128 channels, not {size}: "
      "change num_heads or head_channels, or set attention='xla'"
    )
  if mask is not None:
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
  if implementation == 'xla' and q.dtype == jnp.float32:
    batch, scores = q.shape[0], q.shape[1] * k.shape[1] * q.shape[2]
    pairs = has_size(batch, scores) and batch % 2 == 0 and batch > 2 and scores >= _LARGE
    if pairs and mask is None and on_one_device():
      h = lax.platform_dependent(q, k, v, cpu=_attend_pairs, default=_attend)
    else:
      h = _attend(q, k, v, mask)
  else:
    h = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)
  return h.reshape(*h.shape[:2], -1)


# Scores of an image in a CPU's cache; the gradient computes them again. For
# DiT-S/2 it takes 0.74 of the time of _attend, and the forward pass 0.95.
_LARGE = 2**17


def _attend_pairs(q, k, v):
  pairs = [a.reshape(-1, 2, *a.shape[1:]) for a in (q, k, v)]
  h = lax.map(jax.checkpoint(lambda qkv: _attend(*qkv)), pairs)
  return h.reshape(-1, *h.shape[2:])


def _attend(q, k, v, mask=None):
  # Does what jax.nn.dot_product_attention does, with the heads before the
  # tokens: XLA:CPU needs 6 % less time for the gradient of DiT-S/2.
  q, k, v = (jnp.swapaxes(a, -3, -2) for a in (q, k, v))
  scores = q @ jnp.swapaxes(k, -2, -1) * q.shape[-1] ** -0.5
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  return jnp.swapaxes(jax.nn.softmax(scores) @ v, -3, -2)


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
    h = h.reshape(x.shape[0], -1, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)
    split = heads, channels // heads
    if self.qkv == 'separate':
      q, k, v = (
        dense(h, channels, name, scale=self.qkv_scale, **self.style).reshape(*h.shape[:2], *split)
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
    h = h.reshape(x.shape[0], -1, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)

    def project(a, name):
      a = dense(a, channels, name, **self.style)
      return a.reshape(*a.shape[:2], heads, channels // heads)

    q, k, v = project(h, 'query'), project(text, 'key'), project(text, 'value')
    h = attend(q, k, v, mask)
    h = dense(h, channels, 'proj_out', zero=True, **self.style)
    return x + h.reshape(x.shape)

"""Parts of networks of tokens, [B, T, D]: heads, norms, patches, positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.options import AttentionImplementation

Array = jax.Array

EPSILON = 1e-6


def split_heads(x: Array, num_heads: int) -> Array:
  """Returns [..., T, D] as [..., T, num_heads, D / num_heads]."""
  return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def attend(
  q: Array,
  k: Array,
  v: Array,
  mask: Array | None = None,
  implementation: AttentionImplementation = 'xla',
) -> Array:
  """Returns softmax(q k^T / sqrt(d)) v, its heads side by side: [B, T, D].

  q: [B, T, heads, d], k and v: [B, L, heads, d]; mask: bool [B, L], False at
  tokens of weight 0. The softmax is float32. implementation: see
  `jax.nn.dot_product_attention`.
  """
  mask = None if mask is None else mask[:, None, None, :]
  h = jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation=implementation
  )
  return h.reshape(*h.shape[:2], -1)


def layer_norm(
  name: str, dtype: DTypeLike = jnp.float32, affine: bool = True
) -> nn.Module:
  """Returns layer normalisation, statistics in float32 from the mean.

  Without `affine` it has no parameters.
  """
  return nn.LayerNorm(
    EPSILON,
    dtype=dtype,
    use_bias=affine,
    use_scale=affine,
    use_fast_variance=False,
    name=name,
  )


def patchify(x: Array, size: int) -> Array:
  """Returns patches as tokens: [B, H, W, C] -> [B, T, size^2 C].

  T = H / size * W / size, row by row. The values of a token have the order
  (row, column, channel).
  """
  b, h, w, c = x.shape
  if h % size or w % size:
    raise ValueError(
      f'images of {h}x{w} cannot be cut into patches of {size}x{size}: '
      'patch_size must divide both sides'
    )
  x = x.reshape(b, h // size, size, w // size, size, c)
  return jnp.moveaxis(x, 2, 3).reshape(b, -1, size * size * c)


def unpatchify(tokens: Array, size: int, shape: tuple[int, int]) -> Array:
  """Returns the images [B, *shape, C] of tokens, the inverse of `patchify`."""
  height, width = shape
  grid = (len(tokens), height // size, width // size, size, size, -1)
  x = jnp.moveaxis(tokens.reshape(grid), 3, 2)
  return x.reshape(len(tokens), height, width, x.shape[-1])


def grid_positions(rows: int, columns: int, features: int) -> np.ndarray:
  """Computes sin-cos embeddings of a grid, [rows columns, features], float32.

  The first half of the features embeds the column, the second the row; each
  half is [sin, cos] of position * 10000^(-k / (features / 4)), as in MAE and in
  DiT (Peebles & Xie 2023).
  """
  if features % 4:
    raise ValueError(
      f'sin-cos positions need channels divisible by 4, not {features}'
    )
  frequencies = 1e4 ** (-np.arange(features // 4) / (features // 4))
  row, column = np.divmod(np.arange(rows * columns), columns)
  angles = [at[:, None] * frequencies for at in (column, row)]
  waves = [wave(a) for a in angles for wave in (np.sin, np.cos)]
  return np.concatenate(waves, axis=1).astype(np.float32)

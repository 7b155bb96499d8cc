"""Parts of networks of tokens, [B, T, D]: heads, norms, patches, positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.rotary import axis_angles

Array = jax.Array

EPSILON = 1e-6


def split_heads(x: Array, num_heads: int) -> Array:
  """Returns [..., T, D] as [..., T, num_heads, D / num_heads]."""
  return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


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
  (row, column, channel). Sequences [B, N, C] become [B, N / size, size C], and
  volumes [B, D, H, W, C] tokens of size^3 C values.
  """
  b, *sides, c = x.shape
  if any(side % size for side in sides):
    shape, patch = ('x'.join(map(str, n)) for n in (sides, [size] * len(sides)))
    raise ValueError(
      f'images of {shape} cannot be cut into patches of {patch}: patch_size '
      'must divide all sides'
    )
  x = x.reshape(b, *(n for side in sides for n in (side // size, size)), c)
  within, last = _patch_axes(len(sides))
  return jnp.moveaxis(x, within, last).reshape(b, -1, size ** len(sides) * c)


def _patch_axes(rank):
  # Returns the axes within a patch, and their places before the channels.
  return tuple(range(2, 2 * rank + 1, 2)), tuple(range(-rank - 1, -1))


def unpatchify(tokens: Array, size: int, shape: tuple[int, ...]) -> Array:
  """Returns the images [B, *shape, C] of tokens, the inverse of `patchify`."""
  grid = [side // size for side in shape]
  x = tokens.reshape(len(tokens), *grid, *[size] * len(grid), -1)
  within, last = _patch_axes(len(grid))
  return jnp.moveaxis(x, last, within).reshape(len(tokens), *shape, x.shape[-1])


def grid_positions(grid: tuple[int, ...], features: int) -> np.ndarray:
  """Computes sin-cos embeddings of a grid, [T, features], float32.

  grid: (rows, columns), the length of a sequence, or the sides of a volume. The
  first features embed the last axis: the first half of them the column, the
  second the row. The n features of an axis are
  [sin, cos] of position * 10000^(-k / (n / 2)), as in MAE and in DiT (Peebles &
  Xie 2023).
  """
  hint = "change channels, or set positions='rotary'"
  what = 'sin-cos positions need channels'
  angles = axis_angles(grid, features, what, hint)
  waves = [wave(a) for a in reversed(angles) for wave in (np.sin, np.cos)]
  return np.concatenate(waves, axis=1).astype(np.float32)

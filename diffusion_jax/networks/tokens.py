"""Parts of networks of tokens, [B, T, D]: heads, norms, patches, positions, routes.

Rotary positions are for one or more axes (Su et al. 2021; Heo et al. 2024).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

Array = jax.Array


EPSILON = 1e-6


def split_heads(x: Array, num_heads: int) -> Array:
  """Returns [..., T, D] as [..., T, num_heads, D / num_heads]."""
  return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def layer_norm(name: str, dtype: DTypeLike = jnp.float32, affine: bool = True) -> nn.Module:
  """Returns layer normalisation, statistics in float32 from the mean.

  Without `affine` it has no parameters.
  """
  return nn.LayerNorm(
    EPSILON, dtype=dtype, use_bias=affine, use_scale=affine, use_fast_variance=False, name=name
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
      f'images of {shape} cannot be cut into patches of {patch}: patch_size must divide all sides'
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
  x = tokens.reshape(tokens.shape[0], *grid, *[size] * len(grid), -1)
  within, last = _patch_axes(len(grid))
  return jnp.moveaxis(x, last, within).reshape(tokens.shape[0], *shape, x.shape[-1])


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


def axis_angles(grid: tuple[int, ...], features: int, what: str, hint: str) -> list[np.ndarray]:
  """Computes position * 10000^(-k / n) on each axis of a grid, [T, n] each.

  n = features / 2 / axes. Raises ValueError, which begins with `what` and ends
  with `hint`, if n is not an integer.
  """
  if features % (2 * len(grid)):
    raise ValueError(f'{what} divisible by {2 * len(grid)}, not {features}: {hint}')
  count = features // (2 * len(grid))
  frequencies = 1e4 ** (-np.arange(count) / count)
  places = np.unravel_index(np.arange(np.prod(grid)), grid)
  return [at[:, None] * frequencies for at in places]


def rotary_angles(grid: tuple[int, ...], head_channels: int, num_others: int = 0) -> np.ndarray:
  """Computes the angles of the tokens of a grid, [T, head_channels / 2].

  grid: (rows, columns), the length of a sequence, or the sides of a volume.
  Each axis turns its share of a head, n pairs of channels, the first axis the
  first pairs: position * 10000^(-k / n). The first num_others tokens, such as
  class tokens, have angle 0. float32.
  """
  what = 'rotary positions need head channels'
  hint = 'change channels or num_heads'
  axes = axis_angles(grid, head_channels, what, hint)
  angles = np.concatenate(axes, axis=1)
  return np.pad(angles, ((num_others, 0), (0, 0))).astype(np.float32)


def rotate(x: Array, angles: Array) -> Array:
  """Turns the pairs (2i, 2i + 1) of each head by angles[..., i], in float32.

  x: [B, T, heads, d], angles: [T, d / 2] or [B, T, d / 2]. The product of a
  query and a key then depends only on the difference of their positions.
  """
  angles = angles if angles.ndim == 3 else angles[None]
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  cos, sin = (wave(angles)[:, :, None] for wave in (jnp.cos, jnp.sin))
  turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)


class Route(NamedTuple):
  """Which patches of each example stay, [B, K], and which are set aside, [B, T - K].

  Tokens before the patches, `extra` of them, always stay.
  """

  kept: Array
  aside: Array

  def enter(self, tokens: Array, extra: int) -> tuple[Array, Array]:
    """Returns the tokens that stay, and those that are set aside, of [B, extra + T, ...]."""
    patches = tokens[:, extra:]
    return before(tokens[:, :extra], _at(patches, self.kept)), _at(patches, self.aside)

  def leave(self, tokens: Array, aside: Array, extra: int) -> Array:
    """Returns all tokens, each in its place: the inverse of `enter`."""
    places = jnp.argsort(jnp.concatenate(self, axis=1), axis=1)
    patches = jnp.concatenate([tokens[:, extra:], aside], axis=1)
    return before(tokens[:, :extra], _at(patches, places))


def draw_route(key: Array, batch_size: int, num_patches: int, share: float) -> Route:
  """Draws the `share` of the patches that are set aside, for each example.

  It is rounded to a number of patches, but at least one stays, and one does not.
  There must be two patches or more.
  """
  aside = min(max(round(share * num_patches), 1), num_patches - 1)
  order = jnp.argsort(jax.random.uniform(key, (batch_size, num_patches)), axis=1)
  return Route(order[:, aside:], order[:, :aside])


def before(first: Array, tokens: Array) -> Array:
  """Returns `first` [B or 1, N, ...] before tokens [B, T, ...], as one array of their type."""
  # Converted last: the gradient of what is repeated is a sum of its own type.
  first = jnp.broadcast_to(first, (tokens.shape[0], *first.shape[1:])).astype(tokens.dtype)
  return jnp.concatenate([first, tokens], axis=1)


def _at(x, places):
  # Returns x [B, T, ...] at places [B, K].
  return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)

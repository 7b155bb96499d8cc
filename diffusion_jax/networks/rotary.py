"""Rotary positions on one or more axes (Su et al. 2021; Heo et al. 2024)."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def axis_angles(
  grid: tuple[int, ...], features: int, what: str, hint: str
) -> list[np.ndarray]:
  """Computes position * 10000^(-k / n) on each axis of a grid, [T, n] each.

  n = features / 2 / axes. Raises ValueError, which begins with `what` and ends
  with `hint`, if n is not an integer.
  """
  if features % (2 * len(grid)):
    raise ValueError(
      f'{what} divisible by {2 * len(grid)}, not {features}: {hint}'
    )
  count = features // (2 * len(grid))
  frequencies = 1e4 ** (-np.arange(count) / count)
  places = np.unravel_index(np.arange(np.prod(grid)), grid)
  return [at[:, None] * frequencies for at in places]


def rotary_angles(
  grid: tuple[int, ...], head_channels: int, num_others: int = 0
) -> np.ndarray:
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
  """Turns the pairs (2i, 2i + 1) of each head by angles[:, i], in float32.

  x: [B, T, heads, d], angles: [T, d / 2]. The product of a query and a key then
  depends only on the difference of their positions.
  """
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  cos, sin = (wave(angles)[None, :, None] for wave in (jnp.cos, jnp.sin))
  turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)

"""Rotary positions on two axes (Su et al. 2021; Heo et al. 2024)."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def rotary_angles(
  rows: int, columns: int, head_channels: int, num_others: int = 0
) -> np.ndarray:
  """Computes the angles of the tokens of a grid, [T, head_channels / 2].

  The first half of a head is turned by the row, the second by the column:
  position * 10000^(-k / (head_channels / 4)). The first num_others tokens, such
  as class tokens, have angle 0. float32.
  """
  if head_channels % 4:
    raise ValueError(
      f'rotary positions need head channels divisible by 4, not {head_channels}'
    )
  frequencies = 1e4 ** (-np.arange(head_channels // 4) / (head_channels // 4))
  places = np.divmod(np.arange(rows * columns), columns)
  angles = np.concatenate([at[:, None] * frequencies for at in places], axis=1)
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

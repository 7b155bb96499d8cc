"""Changes of resolution by a factor of 2 after a filter (NCSN++).

The filter (Zhang 2019; StyleGAN2, Karras et al. 2020) has weights such as
(1, 3, 3, 1), divided by their sum, for rows and for columns, and zeros beyond
the edges. The weights (1, 1) give means of 2x2 pixels and nearest neighbours.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def check_filter(weights: Sequence[float]) -> None:
  """Raises ValueError for an odd number of weights, or a sum of 0."""
  if len(weights) < 2 or len(weights) % 2 or not sum(weights):
    raise ValueError(
      f'resample_filter={tuple(weights)} must be an even number of weights '
      'with a sum that is not 0, such as 1,3,3,1'
    )


def downsample(x: Array, weights: Sequence[float]) -> Array:
  """Halves images after the filter: [B, H, W, C] -> [B, H/2, W/2, C]."""
  half = len(weights) // 2
  return _on_both_axes(x, weights, half - 1, half - 1, stride=2)


def upsample(x: Array, weights: Sequence[float]) -> Array:
  """Doubles images before the filter: [B, H, W, C] -> [B, 2H, 2W, C].

  Zeros are put between the pixels, and the result is multiplied by 4.
  """
  half = len(weights) // 2
  return 4.0 * _on_both_axes(x, weights[::-1], half, half, interior=1)


def blur(x: Array, weights: Sequence[float]) -> Array:
  """Filters images before a 3x3 convolution of stride 2 without padding.

  [B, H, W, C] -> [B, H + 1, W + 1, C].
  """
  half = len(weights) // 2
  return _on_both_axes(x, weights, half, half)


def _on_both_axes(x, weights, before, after, stride=1, interior=0):
  for axis in (1, 2):
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (before, after, interior)
    padded = lax.pad(x, jnp.zeros((), x.dtype), padding)
    count = (padded.shape[axis] - len(weights)) // stride + 1
    end = (count - 1) * stride + 1
    # Slices, since XLA:CPU has no fast convolution of single channels.
    slices = [
      w / sum(weights) * lax.slice_in_dim(padded, k, k + end, stride, axis)
      for k, w in enumerate(weights)
    ]
    x = functools.reduce(jnp.add, slices)
  return x

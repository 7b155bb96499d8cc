"""Convolutions, linear layers and changes of resolution.

Parameters are float32; computations have the type `dtype`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.cpu.convolution import convolve
from diffusion_jax.networks.cpu.products import linear
from diffusion_jax.networks.initializers import initializers
from diffusion_jax.networks.options import (
  Checked,
  DownsamplePadding,
  Dtype,
  Initialization,
)
from diffusion_jax.ranges import Size

Array = jax.Array

PADDINGS: dict[DownsamplePadding, tuple[int, int]] = {
  'same': (0, 1),
  'symmetric': (1, 1),
}


class Conv(Checked):
  """Computes a convolution with bias: [B, H, W, C] -> [B, h, w, features].

  The kernel has `kernel_size` entries on each axis of x: one in sequences [B,
  N, C], three in volumes. `padding` (before, after) applies to every axis. By
  default the padding is even and h = H / stride. `zero`: see `initializers`.
  """

  features: Size
  kernel_size: Size = 3
  stride: Size = 1
  padding: tuple[int, int] | None = None
  initializer: Initialization = 'ho'
  zero: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size, axes = self.kernel_size, x.ndim - 2
    shape = (*[size] * axes, x.shape[-1], self.features)
    kernel_init, bias_init = initializers(
      self.initializer, size**axes * x.shape[-1], self.zero
    )
    kernel = self.param('kernel', kernel_init, shape, jnp.float32)
    bias = self.param('bias', bias_init, (self.features,), jnp.float32)
    pad = self.padding or ((size - 1) // 2, size // 2)
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    out = convolve(x, kernel, self.stride, pad)
    return out + bias.reshape(*[1] * (axes + 1), -1)


def dense(
  x: Array,
  features: int,
  name: str,
  *,
  initializer: Initialization = 'ho',
  zero: bool = False,
  scale: float = 1.0,
  use_bias: bool = True,
  dtype: Dtype = jnp.float32,
) -> Array:
  """Returns a linear map of the last axis by the caller's submodule `name`."""
  kernel_init, bias_init = initializers(initializer, x.shape[-1], zero, scale)
  return nn.Dense(
    features,
    use_bias,
    dtype=dtype,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dot_general=linear,
    name=name,
  )(x)


def average_pool(x: Array) -> Array:
  """Returns the mean of every block of two positions on each axis.

  [B, H, W, C] -> [B, H/2, W/2, C]; sequences and volumes likewise.
  """
  b, *sides, c = x.shape
  blocks = [n for side in sides for n in (side // 2, 2)]
  within = tuple(range(2, len(blocks) + 1, 2))
  return x.reshape(b, *blocks, c).mean(axis=within)


def nearest_upsample(x: Array) -> Array:
  """Repeats every position on each axis: [B, H, W, C] -> [B, 2H, 2W, C]."""
  for axis in range(1, x.ndim - 1):
    x = jnp.repeat(x, 2, axis=axis)
  return x


class Downsample(Checked):
  """Computes a convolution of stride 2 with a kernel of 3 on each axis.

  `padding`: 'same' pads at the end of an axis only (TF 'SAME', Ho et al.),
  'symmetric' on all sides (PyTorch's padding=1, OpenAI).
  """

  padding: DownsamplePadding = 'same'
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = Conv(
      x.shape[-1],
      stride=2,
      padding=PADDINGS[self.padding],
      initializer=self.initializer,
      dtype=self.dtype,
      name='conv',
    )
    return conv(x)


class Upsample(Checked):
  """Computes `nearest_upsample`, then a convolution with a kernel of 3."""

  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = Conv(
      x.shape[-1],
      initializer=self.initializer,
      dtype=self.dtype,
      name='conv',
    )
    return conv(nearest_upsample(x))

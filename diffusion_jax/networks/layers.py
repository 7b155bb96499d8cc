"""Convolutions, linear layers, group norm, changes of resolution.

Parameters are float32; computations have the type `dtype`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from diffusion_jax.networks.cpu.bilinear import linear
from diffusion_jax.networks.cpu.convolution import convolve
from diffusion_jax.networks.cpu.half import elementwise, spread
from diffusion_jax.networks.options import (
  HALF,
  Checked,
  DownsamplePadding,
  Dtype,
  Initialization,
  check_divides,
)
from diffusion_jax.ranges import Size, check_value

Array = jax.Array
Initializer = nn.initializers.Initializer

gelu = elementwise('gelu', nn.gelu)

PADDINGS: dict[DownsamplePadding, tuple[int, int]] = {'same': (0, 1), 'symmetric': (1, 1)}


def initializers(
  kind: Initialization, fan_in: int, zero: bool = False, scale: float = 1.0
) -> tuple[Initializer, Initializer]:
  """Returns the initializers of the kernel and of the bias of a layer.

  `zero` is for the last layer of a residual branch; `scale` multiplies the
  variance of the kernel.

  'ho': kernels are variance scaling over the mean of fan in and out, uniform,
  times 1e-10 at the end of a branch; biases are 0. 'torch': both are uniform
  within +-1 / sqrt(fan_in), PyTorch's default, and 0 at the end of a branch.
  'lecun', Flax's default: kernels are normal of variance 1 / fan_in, truncated,
  and 0 at the end of a branch; biases are 0.
  """
  zeros = nn.initializers.zeros
  if kind == 'lecun':
    normal = nn.initializers.variance_scaling(scale, 'fan_in', 'truncated_normal')
    return zeros if zero else normal, zeros
  if kind == 'ho':
    scale = 1e-10 if zero else scale
    return nn.initializers.variance_scaling(scale, 'fan_avg', 'uniform'), zeros
  check_value('initializer', kind, Initialization)
  if zero:
    return zeros, zeros

  def uniform(variance):
    limit = (variance / fan_in) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
      key, shape, dtype, -limit, limit
    )

  return uniform(scale), uniform(1.0)


def add_bias(y: Array, bias: Array) -> Array:
  """Returns y + bias, a bias or shift of equal rank that is repeated to the shape of y.

  In half precision `spread` repeats it, whose gradient CPUs sum in float32.
  """
  return y + (spread(bias, y) if bias.dtype in HALF else bias)


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
    kernel_init, bias_init = initializers(self.initializer, size**axes * x.shape[-1], self.zero)
    kernel = self.param('kernel', kernel_init, shape, jnp.float32)
    bias = self.param('bias', bias_init, (self.features,), jnp.float32)
    pad = self.padding or ((size - 1) // 2, size // 2)
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    y = convolve(x, kernel, self.stride, pad)
    return add_bias(y, bias.reshape(*[1] * (axes + 1), -1))


class Dense(nn.Module):
  """Computes a linear map of the last axis, with a bias [features]: as `nn.Dense`."""

  features: int
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32
  kernel_init: Initializer = nn.initializers.lecun_normal()
  bias_init: Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features), jnp.float32)
    y = linear(x.astype(self.dtype), kernel.astype(self.dtype))
    if not self.use_bias:
      return y
    bias = self.param('bias', self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
    return add_bias(y, bias.reshape(*[1] * (y.ndim - 1), -1))


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
  return Dense(features, use_bias, dtype, kernel_init, bias_init, name=name)(x)


class GroupNorm(nn.Module):
  """Computes group normalisation (Wu & He 2018): [B, ..., C] -> [B, ..., C].

  Statistics are float32, or float64 for float64 inputs. The parameters are
  scale and bias [C], as in `nn.GroupNorm`.
  """

  num_groups: int
  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, channels, groups = x.shape[0], x.shape[-1], self.num_groups
    hint = 'a norm: change num_groups, channels or multipliers'
    check_divides('num_groups', groups, channels, hint)
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Channels are summed first, then the groups of these sums: XLA:CPU is far
    # slower at sums over a part of the last axis. The remaining x a + b is one
    # pass over the pixels, fused with the sum before and the swish after it.
    places = tuple(range(1, x.ndim - 1))

    def mean_of_group(values):
      values = values.mean(places).reshape(batch, groups, channels // groups)
      return values.mean(-1, keepdims=True)

    def of_channels(values):
      values = jnp.broadcast_to(values, (batch, groups, channels // groups))
      return values.reshape(batch, *(1 for _ in places), channels)

    # The order of operations decides what XLA:CPU fuses in the gradient. With
    # the means of x and x * x in two lines, a step of the digits' network is
    # not faster than with Flax's GroupNorm (docs/performance.md).
    mean, square = (mean_of_group(values) for values in (x, x * x))
    variance = jnp.maximum(square - mean**2, 0.0)
    ones = (1,) * len(places)
    scale = jnp.broadcast_to(scale.reshape(groups, -1), (1, groups, channels // groups))
    bias = jnp.broadcast_to(bias, (1, *ones, channels))
    a = of_channels(scale * lax.rsqrt(variance + self.epsilon))
    return (x * a + (bias - of_channels(mean) * a)).astype(self.dtype)


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
    padding = PADDINGS[self.padding]
    return Conv(x.shape[-1], stride=2, padding=padding, **self.style, name='conv')(x)


class Upsample(Checked):
  """Computes `nearest_upsample`, then a convolution with a kernel of 3."""

  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv(x.shape[-1], **self.style, name='conv')(nearest_upsample(x))

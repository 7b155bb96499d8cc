"""Convolutions that are fast on XLA:CPU, in loops too."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffusion_jax.networks.cpu import winograd
from diffusion_jax.networks.cpu.bilinear import (
  Transposes,
  bilinear,
  kernel_gradient,
  transposes,
)
from diffusion_jax.networks.options import has_size

Array = jax.Array
Padding = winograd.Padding

# XLA:CPU runs the gradients of a convolution, as JAX writes them, by a naive
# loop when they stand inside a lax.scan, while or cond: up to 60 times slower.
# Written as convolutions of the forward's own layout they are fast everywhere.
# Where Winograd's algorithm is faster, all three take it. The rest in bfloat16 are
# products of patches, but for the gradient of an input that is larger than the output.


class ConvOptions(NamedTuple):
  """The static options of a convolution.

  The precision is one of them, because a derivative may be lowered long after
  the context `jax.default_matmul_precision` of the forward pass has been left.
  """

  stride: int
  padding: Padding
  precision: lax.PrecisionLike


def _lax_conv(x, kernel, how, x_dilation=1, kernel_dilation=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    (how.stride, how.stride),
    how.padding,
    lhs_dilation=(x_dilation, x_dilation),
    rhs_dilation=(kernel_dilation, kernel_dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=how.precision,
  )


def _plain(x, kernel, how):
  out = _lax_conv(_images(x), kernel, how)
  return out.reshape(*x.shape[:-3], *out.shape[1:])


def _images(x):
  # Returns [..., H, W, C] as [B, H, W, C].
  return x.reshape(-1, *x.shape[-3:])


def _forward(x, kernel, *, shape, how, num_devices):
  out = _conv(_images(x), kernel, shape[-3:], how, num_devices)
  return out.reshape(shape)


def _input_gradient(g, kernel, *, shape, how, num_devices):
  size, g = kernel.shape[0], _images(g)
  axes = zip(how.padding, shape[-3:-1], g.shape[1:3], strict=True)
  pads = tuple(
    (size - 1 - before, n + before - (m - 1) * how.stride - 1) for (before, _), n, m in axes
  )
  # Without the barriers XLA folds the transposes back into the slow layout.
  turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  plain = ConvOptions(1, pads, how.precision)
  if how.stride == 1:
    out = _conv(g, turned, shape[-3:], plain, num_devices)
  else:
    out = _lax_conv(g, turned, plain, x_dilation=how.stride)
  return out.reshape(shape)


def _kernel_gradient(x, g, *, shape, how, num_devices):
  x, g, size = _images(x), _images(g), shape[0]
  if _is_for_winograd(x, g.shape[1:], size, how, num_devices):
    return winograd.kernel_gradient(x, g, how.padding, how.precision)
  if _is_for_patches(x, g.shape[1:], size):
    rows = _patches(x, g.shape[1:], size, how)
    precision = how.precision
    gradient = kernel_gradient(rows, g, shape=shape, how=precision, num_devices=num_devices)
    return gradient.reshape(shape)
  axes = zip(how.padding, x.shape[1:3], g.shape[1:3], strict=True)
  pads = tuple((before, size + (m - 1) * how.stride - n - before) for (before, _), n, m in axes)
  channels_as_batch = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
  g_as_kernel = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
  out = _lax_conv(
    channels_as_batch, g_as_kernel, ConvOptions(1, pads, how.precision), kernel_dilation=how.stride
  )
  return out.transpose(1, 2, 0, 3)


def _conv(x, kernel, out_shape, how, num_devices):
  # x: [B, H, W, C]; out_shape: of one image.
  if _is_for_winograd(x, out_shape, kernel.shape[0], how, num_devices):
    # The transform of the kernel has four times its size. The barrier keeps XLA
    # from computing it before x.
    x, kernel = lax.optimization_barrier((x, kernel))
    return winograd.conv(x, kernel, how.padding, how.precision)
  if _is_for_patches(x, out_shape, kernel.shape[0]):
    rows = _patches(x, out_shape, kernel.shape[0], how)
    product = jnp.matmul(rows, kernel.reshape(-1, out_shape[-1]), precision=how.precision)
    return product.reshape(x.shape[0], *out_shape)
  return _lax_conv(x, kernel, how)


# XLA converts images in bfloat16 to float32, but not the operands of a product. With
# more patches its convolution needs far less memory.
MAX_PATCHES = 2**23  # numbers


def _is_for_patches(x, out_shape, size):
  count = x.shape[0] * math.prod(out_shape[:2]) * size**2 * x.shape[3]
  return x.dtype == jnp.bfloat16 and 1 < size and has_size(count) and count <= MAX_PATCHES


def _patches(x, out_shape, size, how):
  # Returns the inputs of each output as a row: [B h w, size^2 C].
  height, width = ((n - 1) * how.stride + 1 for n in out_shape[:2])
  sides = zip(how.padding, x.shape[1:3], (height, width), strict=True)
  # A negative padding, or an end that no output reads, is cut off.
  pads = [(before, span + size - 1 - n - before, 0) for (before, _), n, span in sides]
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
  step = how.stride
  parts = [
    x[:, i : i + height : step, j : j + width : step] for i in range(size) for j in range(size)
  ]
  return jnp.concatenate(parts, axis=-1).reshape(-1, size**2 * x.shape[3])


# XLA's convolution is as fast or faster for smaller ones, and patches in bfloat16 are.
MIN_TILES = {jnp.dtype(jnp.float32): 32, jnp.dtype(jnp.bfloat16): 64}
MIN_CHANNELS = 32


def _is_for_winograd(x, out_shape, size, how, num_devices):
  # A user of the highest precision compares numbers, and rounding differs; several
  # devices would exchange the tiles.
  if (size, how.stride) != (3, 1) or x.dtype not in MIN_TILES:
    return False
  if how.precision == 'highest' or num_devices != 1:
    return False
  height, width, features = out_shape
  if min(x.shape[3], features) < MIN_CHANNELS:
    return False
  tiles = math.prod(winograd.tile_counts(height, width))
  # The tiles at the edge compute rows that nothing needs.
  used = height * width / (tiles * winograd.TILE**2)
  batch = x.shape[0]
  return used > 0.7 and has_size(batch) and batch * tiles >= MIN_TILES[x.dtype]


_convolve = bilinear('conv2d', _plain, Transposes(_forward, _input_gradient, _kernel_gradient))


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """Computes a 2-D convolution, NHWC x HWIO -> NHWC.

  x: [..., H, W, C]; kernel: [k, k, C, O]; padding ((top, bottom), (left,
  right)). The precision, also of the gradients, is the value of
  `jax.default_matmul_precision` at the call.

  Lowered for a CPU it is fast in loops. Where it is computed by Winograd's
  algorithm (program for one CPU device, 3x3, float32, 32 channels or more) a
  NaN reaches 16 to 25 outputs instead of 9, and rounding errors of a very large
  input reach as far; see `winograd`. The precision 'highest' avoids it.
  """
  # `jax.config` makes its attributes at run time.
  precision = jax.config.values['jax_default_matmul_precision']
  pads = tuple((before, after) for before, after in padding)
  return _convolve(x, kernel, ConvOptions(stride, pads, precision))


def _whole(x, kernel, how):
  axes = kernel.ndim - 2
  sides = 'XYZ'[:axes]
  out = lax.conv_general_dilated(
    x.reshape(-1, *x.shape[-axes - 1 :]),
    kernel,
    (how.stride,) * axes,
    how.padding,
    dimension_numbers=(f'N{sides}C', f'{sides}IO', f'N{sides}C'),
    precision=how.precision,
  )
  return out.reshape(*x.shape[: -axes - 1], *out.shape[1:])


def _by_parts(x, kernel, how):
  # The sum over the entries of the kernel's first axis.
  axis = x.ndim - kernel.ndim + 1
  pads = [(0, 0)] * x.ndim
  pads[axis] = how.padding[0]
  x = jnp.pad(x, pads)
  span = (x.shape[axis] - len(kernel)) // how.stride * how.stride + 1
  inner = how._replace(padding=how.padding[1:])
  total = 0.0
  for i, k in enumerate(kernel):
    part = lax.slice_in_dim(x, i, i + span, how.stride, axis)
    if kernel.ndim == 3:
      total += jnp.matmul(part, k, precision=how.precision)
    else:
      total += _convolve(part, k, inner)
  return total


_convolve_any = bilinear('convolve', _whole, transposes(_by_parts))


def convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
  """Computes a convolution of one to three axes, [..., C] -> [..., O].

  kernel: [k, ..., C, O]; padding: (before, after) of every axis. Two axes are
  `conv2d`. Lowered for a CPU three are sums of it, and one is a sum of
  products, whose gradients are 7 to 26 times faster in a lax.scan.
  """
  axes = kernel.ndim - 2
  if axes == 2:
    return conv2d(x, kernel, stride, (padding, padding))
  precision = jax.config.values['jax_default_matmul_precision']
  return _convolve_any(x, kernel, ConvOptions(stride, (padding,) * axes, precision))

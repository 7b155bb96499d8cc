"""A 2-D convolution that is fast on XLA:CPU, in loops too."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from diffusion_jax.networks import winograd

Array = jax.Array
Padding = winograd.Padding

# XLA:CPU runs the gradients of a convolution, as JAX writes them, by a naive
# loop when they stand inside a lax.scan, while or cond: up to 60 times slower.
# Written as convolutions of the forward's own layout they are fast everywhere.
# So a convolution is a primitive of its own on CPUs. It is bilinear: its
# tangents are convolutions again, and its transposes, which reverse mode takes,
# the two functions below, g -> dL/dx and g -> dL/dkernel. Forward mode, vmap
# and higher derivatives work as for any function (jax.custom_vjp would rule out
# forward mode). Where Winograd's algorithm is faster, all three take it.
#
# The precision is an argument, because a derivative may be written long after
# the context jax.default_matmul_precision of the forward pass has been left.


def _lax_conv(
  x, kernel, padding, precision, stride=1, x_dilation=1, kernel_dilation=1
):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    lhs_dilation=(x_dilation, x_dilation),
    rhs_dilation=(kernel_dilation, kernel_dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=precision,
  )


def _input_gradient(kernel, g, x_shape, stride, padding, precision):
  size = kernel.shape[0]
  axes = zip(padding, x_shape[1:3], g.shape[1:3], strict=True)
  pads = tuple(
    (size - 1 - before, n + before - (m - 1) * stride - 1)
    for (before, _), n, m in axes
  )
  # Without the barriers XLA folds the transposes back into the slow layout.
  turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  if stride == 1:
    return _conv(g, turned, stride, pads, precision)
  return _lax_conv(g, turned, pads, precision, x_dilation=stride)


def _kernel_gradient(x, g, size, stride, padding, precision):
  if _is_for_winograd(x, g.shape, size, stride, precision):
    return winograd.kernel_gradient(x, g, padding, precision)
  axes = zip(padding, x.shape[1:3], g.shape[1:3], strict=True)
  pads = [
    (before, size + (m - 1) * stride - n - before) for (before, _), n, m in axes
  ]
  channels_as_batch = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
  g_as_kernel = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
  out = _lax_conv(
    channels_as_batch, g_as_kernel, pads, precision, kernel_dilation=stride
  )
  return out.transpose(1, 2, 0, 3)


def _is_for_winograd(x, out_shape, size, stride, precision):
  # Float32 alone, since bfloat16 has too few digits for its sums; not at the
  # highest precision, which is for numbers that are compared; and not where
  # devices are simulated: tiles that are split over them would be sent.
  if (size, stride, x.dtype) != (3, 1, jnp.float32) or precision == 'highest':
    return False
  if jax.device_count() > 1:
    return False
  height, width, features = out_shape[1:]
  tiles = math.prod(winograd.tile_counts(height, width))
  # Rows beyond the edge are computed in vain.
  filled = height * width / (tiles * winograd.TILE**2)
  enough = out_shape[0] * tiles >= MIN_TILES
  return filled > 0.7 and enough and min(x.shape[3], features) >= MIN_CHANNELS


# Smaller ones are as fast or faster by XLA's convolution.
MIN_TILES, MIN_CHANNELS = 32, 32


def _out_shape(x, kernel, stride, padding):
  size = kernel.shape[0]
  sides = (
    (n + sum(pad) - size) // stride + 1
    for n, pad in zip(x.shape[1:3], padding, strict=True)
  )
  return x.shape[0], *sides, kernel.shape[3]


def _compute(x, kernel, *, stride, padding, precision):
  shape = _out_shape(x, kernel, stride, padding)
  if _is_for_winograd(x, shape, kernel.shape[0], stride, precision):
    # The transform of the kernel is four times its size: not made before x is.
    x, kernel = lax.optimization_barrier((x, kernel))
    return winograd.conv(x, kernel, padding, precision)
  return _lax_conv(x, kernel, padding, precision, stride)


conv2d_p = Primitive('conv2d')


def _conv(x, kernel, stride, padding, precision):
  return conv2d_p.bind(
    x, kernel, stride=stride, padding=padding, precision=precision
  )


def _abstract(x, kernel, *, stride, padding, precision):
  shape = _out_shape(x, kernel, stride, padding)
  return ShapedArray(shape, x.dtype)


def _transpose_x(g, x, kernel, **how):
  return _input_gradient(kernel, g, x.aval.shape, **how)


def _transpose_kernel(g, x, kernel, **how):
  return _kernel_gradient(x, g, kernel.aval.shape[0], **how)


def _batch(arguments, axes, **how):
  (x, kernel), (x_axis, kernel_axis) = arguments, axes
  if kernel_axis is not None:
    conv = functools.partial(_lax_conv, **how)
    return jax.vmap(conv, (x_axis, kernel_axis))(x, kernel), 0
  x = jnp.moveaxis(x, x_axis, 0)
  out = conv2d_p.bind(x.reshape(-1, *x.shape[2:]), kernel, **how)
  return out.reshape(*x.shape[:2], *out.shape[1:]), 0


conv2d_p.def_impl(
  jax.jit(_compute, static_argnames=('stride', 'padding', 'precision'))
)
conv2d_p.def_abstract_eval(_abstract)
ad.defbilinear(conv2d_p, _transpose_x, _transpose_kernel)
batching.primitive_batchers[conv2d_p] = _batch
mlir.register_lowering(
  conv2d_p, mlir.lower_fun(_compute, multiple_results=False)
)


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """Computes a 2-D convolution, NHWC x HWIO -> NHWC, fast in loops on CPU.

  x: [B, H, W, C]; kernel: [k, k, C, O]; padding ((top, bottom), (left, right)).
  On other backends it is XLA's own, gradients included. The precision is that
  of `jax.default_matmul_precision` at the call, in the gradients too.

  Where Winograd's algorithm is taken (one CPU device, 3x3, float32, 32 channels
  or more) a NaN reaches 16 to 25 outputs instead of 9, and rounding errors of a
  very large input reach as far; see `networks.winograd`. The precision
  'highest' does without it.
  """
  # `jax.config` makes its attributes at run time.
  config: Any = jax.config
  precision = config.jax_default_matmul_precision
  if jax.default_backend() == 'cpu':
    return _conv(x, kernel, stride, tuple(map(tuple, padding)), precision)
  return _lax_conv(x, kernel, padding, precision, stride)

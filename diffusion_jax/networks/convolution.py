"""A 2-D convolution whose gradients are fast in loops on XLA:CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]


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


# XLA:CPU runs the gradients of a convolution, as JAX writes them, by a naive
# loop when they stand inside a lax.scan, while or cond: up to 60 times slower.
# Written as convolutions of the forward's own layout they are fast everywhere.
# The two functions below are these gradients, g -> dL/dx and g -> dL/dkernel.
# Both are linear in g, so their transposes are the tangent maps; declaring
# *those* as the derivative makes reverse mode transpose them back into the fast
# form, and forward mode, vmap and higher derivatives work as for any function
# (jax.custom_vjp would rule out forward mode). Forward mode inside a loop stays
# slow on CPU.
#
# The precision is an argument, because a derivative may be written long after
# the context jax.default_matmul_precision of the forward pass has been left.


def _input_gradient(kernel, g, x_shape, stride, padding, precision):
  size = kernel.shape[0]
  axes = zip(padding, x_shape[1:3], g.shape[1:3], strict=True)
  pads = [
    (size - 1 - before, n + before - (m - 1) * stride - 1)
    for (before, _), n, m in axes
  ]
  # Without the barriers XLA folds the transposes back into the slow layout.
  turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  return _lax_conv(g, turned, pads, precision, x_dilation=stride)


def _kernel_gradient(x, g, size, stride, padding, precision):
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _loop_safe_conv(x, kernel, stride, padding, precision):
  return _lax_conv(x, kernel, padding, precision, stride)


@functools.partial(_loop_safe_conv.defjvp, symbolic_zeros=True)
def _loop_safe_conv_jvp(stride, padding, precision, primals, tangents):
  x, kernel = primals
  out = _lax_conv(x, kernel, padding, precision, stride)
  how = stride, padding, precision
  gradients = (
    lambda g: _input_gradient(kernel, g, x.shape, *how),
    lambda g: _kernel_gradient(x, g, kernel.shape[0], *how),
  )
  tangent = jnp.zeros_like(out)
  for gradient, moved in zip(gradients, tangents, strict=True):
    if not isinstance(moved, jax.custom_derivatives.SymbolicZero):
      (part,) = jax.linear_transpose(gradient, out)(moved)
      tangent += part
  return out, tangent


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """Computes a 2-D convolution, NHWC x HWIO -> NHWC, fast in loops on CPU.

  x: [B, H, W, C]; kernel: [k, k, C, O]; padding ((top, bottom), (left, right)).
  On other backends it is XLA's own, gradients included. The precision is that
  of `jax.default_matmul_precision` at the call, in the gradients too.
  """
  # `jax.config` makes its attributes at run time.
  precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
  if jax.default_backend() == 'cpu':
    return _loop_safe_conv(x, kernel, stride, padding, precision)
  return _lax_conv(x, kernel, padding, precision, stride)

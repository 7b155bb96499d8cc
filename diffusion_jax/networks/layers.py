"""The layers of all image networks.

Initialisers are those of Ho et al. 2020: variance scaling over the mean of fan
in and out, uniform; where a branch ends, scaled by 1e-10 so that it begins as
(almost) zero. Parameters, norms and softmax are float32, the rest is `dtype`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]


def default_init(scale: float = 1.0) -> nn.initializers.Initializer:
  """Ho et al.'s initialiser; scale=0 means their 1e-10."""
  return nn.initializers.variance_scaling(
    max(scale, 1e-10), 'fan_avg', 'uniform'
  )


def _lax_conv(x, kernel, padding, stride=1, x_dilation=1, kernel_dilation=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    lhs_dilation=(x_dilation, x_dilation),
    rhs_dilation=(kernel_dilation, kernel_dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
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


def _input_gradient(kernel, g, x_shape, stride, padding):
  size = kernel.shape[0]
  axes = zip(padding, x_shape[1:3], g.shape[1:3], strict=True)
  pads = [
    (size - 1 - before, n + before - (m - 1) * stride - 1)
    for (before, _), n, m in axes
  ]
  # without the barriers XLA folds the transposes back into the slow layout
  turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  return _lax_conv(g, turned, pads, x_dilation=stride)


def _kernel_gradient(x, g, size, stride, padding):
  axes = zip(padding, x.shape[1:3], g.shape[1:3], strict=True)
  pads = [
    (before, size + (m - 1) * stride - n - before) for (before, _), n, m in axes
  ]
  channels_as_batch = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
  g_as_kernel = lax.optimization_barrier(g.transpose(1, 2, 0, 3))
  out = _lax_conv(channels_as_batch, g_as_kernel, pads, kernel_dilation=stride)
  return out.transpose(1, 2, 0, 3)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _loop_safe_conv(x, kernel, stride, padding):
  return _lax_conv(x, kernel, padding, stride)


@functools.partial(_loop_safe_conv.defjvp, symbolic_zeros=True)
def _loop_safe_conv_jvp(stride, padding, primals, tangents):
  x, kernel = primals
  out = _lax_conv(x, kernel, padding, stride)
  gradients = (
    lambda g: _input_gradient(kernel, g, x.shape, stride, padding),
    lambda g: _kernel_gradient(x, g, kernel.shape[0], stride, padding),
  )
  tangent = jnp.zeros_like(out)
  for gradient, moved in zip(gradients, tangents, strict=True):
    if not isinstance(moved, jax.custom_derivatives.SymbolicZero):
      (part,) = jax.linear_transpose(gradient, out)(moved)
      tangent += part
  return out, tangent


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  """2-D convolution, NHWC x HWIO -> NHWC, differentiable inside loops on CPU.

  x: [B, H, W, C]; kernel: [k, k, C, O]; padding ((top, bottom), (left, right)).
  On other backends it is XLA's own, gradients included.
  """
  if jax.default_backend() == 'cpu':
    return _loop_safe_conv(x, kernel, stride, padding)
  return _lax_conv(x, kernel, padding, stride)


class Conv(nn.Module):
  """Convolution with bias, the one of the house.

  `padding` (before, after) applies to both axes; by default the output has the
  size of the input / stride, padded evenly.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  padding: tuple[int, int] | None = None
  init_scale: float = 1.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size = self.kernel_size
    shape = (size, size, x.shape[-1], self.features)
    kernel = self.param('kernel', default_init(self.init_scale), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    pad = self.padding or ((size - 1) // 2, size // 2)
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    out = conv2d(x, kernel, self.stride, (pad, pad))
    return out + bias[None, None, None]


def group_norm(
  num_groups: int, dtype: jnp.dtype = jnp.float32, name: str | None = None
) -> nn.Module:
  """Group normalisation with Ho et al.'s epsilon; statistics in float32."""
  return nn.GroupNorm(num_groups, epsilon=1e-6, dtype=dtype, name=name)


class ResnetBlock(nn.Module):
  """norm, swish, conv, + embedding, norm, swish, dropout, conv, + input.

  x: [B, H, W, C], embedding: [B, E] -> [B, H, W, features]. The shortcut is a
  1x1 projection where the width changes (Ho et al. 2020).
  """

  features: int
  dropout: float = 0.0
  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, embedding: Array, train: bool) -> Array:
    norm = functools.partial(group_norm, self.num_groups, self.dtype)
    dense = functools.partial(
      nn.Dense, self.features, kernel_init=default_init(), dtype=self.dtype
    )
    h = nn.swish(norm(name='norm_1')(x))
    h = Conv(self.features, dtype=self.dtype, name='conv_1')(h)
    h += dense(name='embedding_proj')(nn.swish(embedding))[:, None, None, :]
    h = nn.swish(norm(name='norm_2')(h))
    h = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(h)
    h = Conv(self.features, init_scale=0.0, dtype=self.dtype, name='conv_2')(h)
    if x.shape[-1] != self.features:
      x = dense(name='shortcut')(x)
    return x + h


class Attention(nn.Module):
  """Self-attention over all pixels, one head of full width, + input.

  x: [B, H, W, C] -> the same. The softmax is float32 (Ho et al. 2020).
  """

  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, channels = x.shape
    dense = functools.partial(nn.Dense, channels, dtype=self.dtype)
    h = group_norm(self.num_groups, self.dtype, 'norm')(x)
    h = h.reshape(batch, height * width, channels)
    q, k, v = (
      dense(kernel_init=default_init(), name=name)(h)[:, :, None, :]
      for name in ('query', 'key', 'value')
    )
    h = jax.nn.dot_product_attention(q, k, v)[:, :, 0, :]
    h = dense(kernel_init=default_init(0.0), name='proj_out')(h)
    return x + h.reshape(x.shape)


class Downsample(nn.Module):
  """3x3 convolution of stride 2, padded at the bottom and right (TF 'SAME')."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = Conv(
      x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype, name='conv'
    )
    return conv(x)


class Upsample(nn.Module):
  """Each pixel doubled in both directions, then a 3x3 convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return Conv(x.shape[-1], dtype=self.dtype, name='conv')(x)

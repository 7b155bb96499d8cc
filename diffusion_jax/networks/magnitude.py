"""Layers that keep the magnitude of activations (Karras et al. 2024, EDM2).

The magnitude is the root mean square. For independent inputs of magnitude 1
the outputs have magnitude 1 too, for any weights, without biases and norms with
parameters. Norms and weights are float32.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.aliases import Params
from diffusion_jax.networks.cpu.bilinear import linear
from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.networks.options import Checked
from diffusion_jax.networks.placement import whole_weights
from diffusion_jax.ranges import Size

Array = jax.Array
Axes = int | tuple[int, ...] | None

EPSILON = 1e-4  # added to the divisor of `normalize`


def magnitude(x: Array, axis: Axes) -> Array:
  """Returns the root mean square over `axis`, which is kept; float32."""
  square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis, keepdims=True)
  # The root has no gradient at 0.
  return jnp.sqrt(jnp.maximum(square, 1e-30))


def normalize(x: Array, axis: Axes = -1) -> Array:
  """Returns x / (1e-4 + magnitude), float32 (EDM2, Eq. 30 and 50).

  Over the channels, axis -1, this is pixel normalisation.
  """
  return x.astype(jnp.float32) / (EPSILON + magnitude(x, axis))


def mp_silu(x: Array) -> Array:
  """Returns silu(x) / 0.596, of magnitude 1 for x ~ N(0, 1) (EDM2, Eq. 81)."""
  return jax.nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
  """Returns ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (EDM2, Eq. 88)."""
  return ((1.0 - t) * a + t * b) / math.hypot(1.0 - t, t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
  """Concatenates channels, which contribute as 1 - t to t (EDM2, Eq. 103).

  [..., N] and [..., M] -> [..., N + M]: a sqrt((N + M) / N) (1 - t) / h and
  b sqrt((N + M) / M) t / h with h = sqrt((1 - t)^2 + t^2).
  """
  n, m = a.shape[-1], b.shape[-1]
  h = math.hypot(1.0 - t, t)
  a = a * ((1.0 - t) / h * math.sqrt((n + m) / n))
  b = b * (t / h * math.sqrt((n + m) / m))
  return jnp.concatenate([a, b], axis=-1)


def unit_kernel(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
  """Draws a kernel [..., fan_in, features] of N(0, 1), normalised exactly."""
  return _exactly(jax.random.normal(key, shape, dtype))


def _exactly(kernel):
  # No epsilon: a step leaves the norms where they are, to rounding.
  return kernel / magnitude(kernel, _inputs(kernel))


def _inputs(kernel):
  return tuple(range(kernel.ndim - 1))


def normalize_kernels(params: Params) -> Params:
  """Returns the parameters with kernels of magnitude 1 per output channel.

  Forced weight normalisation (EDM2, section 2.3), after every step of an
  optimizer: a kernel of n inputs gets rows of norm sqrt(n). Other leaves are
  returned unchanged.
  """

  def leaf(path, x):
    return _exactly(x) if path[-1].key == 'kernel' else x

  return jax.tree_util.tree_map_with_path(leaf, params)


class MPConv(nn.Module):
  """Computes a linear map or a convolution with normalised weights.

  kernel_size 0: [..., C] -> [..., features]; else [B, H, W, C], with zeros
  around. The weights are gain normalize(kernel) / sqrt(fan_in), so that each
  row has the norm `gain` (EDM2, section 2.3).
  """

  features: int
  kernel_size: int = 0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
    size = self.kernel_size
    window = (size, size) if size else ()
    shape = (*window, x.shape[-1], self.features)
    kernel = self.param('kernel', unit_kernel, shape, jnp.float32)
    fan_in = math.prod(shape[:-1])
    weight = normalize(kernel, _inputs(kernel)) * (gain / math.sqrt(fan_in))
    # Under FSDP a device normalises its part, and the result is gathered.
    weight = whole_weights(weight.astype(self.dtype))
    x = x.astype(self.dtype)
    if not size:
      return linear(x, weight)
    pad = (size - 1) // 2, size // 2
    return conv2d(x, weight, 1, (pad, pad))


class MPFourier(nn.Module):
  """Computes sqrt(2) cos(2 pi (f_i noise + p_i)): [B] -> [B, features].

  f_i ~ N(0, 1) and p_i ~ U(0, 1) are parameters that are not trained; always
  float32 (EDM2, Eq. 75).
  """

  features: int

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    shape = (self.features,), jnp.float32
    frequencies = self.param('frequencies', nn.initializers.normal(1.0), *shape)
    phases = self.param('phases', nn.initializers.uniform(1.0), *shape)
    frequencies, phases = jax.lax.stop_gradient((frequencies, phases))
    turns = noise.astype(jnp.float32)[:, None] * frequencies[None]
    return math.sqrt(2.0) * jnp.cos(2.0 * math.pi * (turns + phases[None]))


class Uncertainty(Checked):
  """Computes u(noise) [B] of noise [B], the log-variance of a denoiser's error.

  An `MPConv` of an `MPFourier` of `channels` (EDM2, section 2.2 and
  appendix B).
  """

  channels: Size = 128

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    h = MPFourier(self.channels, name='fourier')(noise)
    return MPConv(1, name='linear')(h)[:, 0]

  @staticmethod
  def constrain(params: Params) -> Params:
    """Returns the parameters as they are after a step: `normalize_kernels`."""
    return normalize_kernels(params)

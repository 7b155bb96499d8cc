"""What is measured of an image: functions x_0 [B, H, W, C] -> y [B, ...]."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.declared import declares
from diffusion_jax.ranges import Count, Finite, Positive, Size

Array = jax.Array
Operator = Callable[[Array], Array]
_of_pictures = declares(data='pictures', instead='take mask, matrix or an operator of yours')


def masked(mask: Array) -> Operator:
  """Makes x_0 where the mask is True, and 0 elsewhere; it broadcasts to x_0."""
  return lambda x0: jnp.where(mask, x0, 0.0)


def blurred(kernel: Array) -> Operator:
  """Makes the circular convolution with a kernel, [h, w] or [B, h, w].

  kernel[h // 2, w // 2] is the weight of the pixel itself.
  """
  kernels = kernel.reshape(-1, *kernel.shape[-2:])
  _, height, width = kernels.shape

  def blur(x0):
    rows, columns = x0.shape[1:3]
    row = (jnp.arange(height) - height // 2) % rows
    column = (jnp.arange(width) - width // 2) % columns
    centred = jnp.zeros((len(kernels), rows, columns), kernels.dtype)
    # Indices that occur twice, of a large kernel, add up.
    centred = centred.at[:, row[:, None], column[None, :]].add(kernels)
    spectrum = jnp.fft.rfft2(x0, axes=(1, 2))
    spectrum *= jnp.fft.rfft2(centred)[..., None]
    return jnp.fft.irfft2(spectrum, (rows, columns), axes=(1, 2))

  return blur


def gaussian_kernel(width: float, size: int) -> Array:
  """Returns a Gaussian kernel [size, size] of sum 1; width: its deviation."""
  x = jnp.arange(size) - size // 2
  line = jnp.exp(-0.5 * (x / width) ** 2)
  return jnp.outer(line, line) / jnp.sum(line) ** 2


@_of_pictures
def gaussian_blur(width: Positive = 1.0) -> Operator:
  """Makes the blur by a Gaussian of deviation `width` pixels."""
  return blurred(gaussian_kernel(width, 2 * math.ceil(3.0 * width) + 1))


@_of_pictures
def motion_blur(length: Positive = 5.0, angle: Finite = 0.0) -> Operator:
  """Makes the mean over a line of `length` pixels.

  angle: in degrees, counterclockwise from the rows. The pixels of the line have
  weights by bilinear interpolation.
  """
  size = 2 * math.ceil(0.5 * length) + 1
  count = 32 * size
  along = ((np.arange(count) + 0.5) / count - 0.5) * length
  turn = math.radians(angle)
  rows = size // 2 - along * math.sin(turn)
  columns = size // 2 + along * math.cos(turn)
  at = np.arange(size)
  weights = [np.maximum(1.0 - np.abs(x[:, None] - at), 0.0) for x in (rows, columns)]
  kernel = np.einsum('nr,nc->rc', *weights)
  return blurred(jnp.asarray(kernel / kernel.sum(), jnp.float32))


def downsampled(kernel: Array, factor: int) -> Operator:
  """Makes every factor-th pixel of the blurred image."""
  blur = blurred(kernel)
  return lambda x0: blur(x0)[:, ::factor, ::factor]


@_of_pictures
def pooled(x0: Array, factor: Size = 2) -> Array:
  """Returns means over blocks of pixels, [B, H, W, C] -> [B, H/f, W/f, C].

  Raises ValueError if factor does not divide H and W.
  """
  b, h, w, c = x0.shape
  if factor < 1 or h % factor or w % factor:
    raise ValueError(f'factor must divide images of {h}x{w}, got {factor}')
  blocks = x0.reshape(b, h // factor, factor, w // factor, factor, c)
  return jnp.mean(blocks, axis=(2, 4))


# Rec. 601 luma, which Pillow uses for grey images.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@_of_pictures
def luminance(x0: Array) -> Array:
  """Returns Rec. 601 luma, [B, H, W, 3] -> [B, H, W, 1].

  Raises ValueError for images that do not have 3 channels.
  """
  if x0.shape[-1] != 3:
    raise ValueError(f'luminance needs 3 channels, got {x0.shape[-1]}')
  return jnp.sum(x0 * LUMA.reshape(1, 1, 1, 3), axis=-1, keepdims=True)


def fourier(mask: Array) -> Operator:
  """Makes Fourier coefficients where the mask [H, W] is True, 0 elsewhere.

  The transform is orthonormal; real and imaginary parts are channels, [B, H, W,
  2C].
  """

  def transform(x0):
    spectrum = jnp.fft.fft2(x0, axes=(1, 2), norm='ortho')
    spectrum = jnp.where(mask[None, :, :, None], spectrum, 0.0)
    return jnp.concatenate([spectrum.real, spectrum.imag], axis=-1)

  return transform


@_of_pictures
def fourier_magnitude(pad: Count = 0) -> Operator:
  """Makes |F x_0| of an image with a margin of zeros, for phase retrieval."""

  def magnitude(x0):
    x0 = jnp.pad(x0, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    spectrum = jnp.fft.fft2(x0, axes=(1, 2), norm='ortho')
    # The gradient of a square root at 0 would be NaN.
    return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-12)

  return magnitude


@_of_pictures
def high_dynamic_range(gain: Positive = 2.0) -> Operator:
  """Makes clip(gain x_0, -1, 1), an overexposed image."""
  return lambda x0: jnp.clip(gain * x0, -1.0, 1.0)

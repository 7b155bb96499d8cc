"""What is measured of an image: functions x_0 [B, H, W, C] -> y [B, ...]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Operator = Callable[[Array], Array]


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
    padding = (0, 0), (0, rows - height), (0, columns - width)
    shift = -(height // 2), -(width // 2)
    centred = jnp.roll(jnp.pad(kernels, padding), shift, (1, 2))
    spectrum = jnp.fft.rfft2(x0, axes=(1, 2))
    spectrum *= jnp.fft.rfft2(centred)[..., None]
    return jnp.fft.irfft2(spectrum, (rows, columns), axes=(1, 2))

  return blur


def gaussian_kernel(width: float, size: int) -> Array:
  """Returns a Gaussian kernel [size, size] of sum 1; width: its deviation."""
  x = jnp.arange(size) - size // 2
  line = jnp.exp(-0.5 * (x / width) ** 2)
  return jnp.outer(line, line) / jnp.sum(line) ** 2


def downsampled(kernel: Array, factor: int) -> Operator:
  """Makes every factor-th pixel of the blurred image."""
  blur = blurred(kernel)
  return lambda x0: blur(x0)[:, ::factor, ::factor]


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


def fourier_magnitude(pad: int = 0) -> Operator:
  """Makes |F x_0| of an image with a margin of zeros, for phase retrieval."""

  def magnitude(x0):
    x0 = jnp.pad(x0, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    spectrum = jnp.fft.fft2(x0, axes=(1, 2), norm='ortho')
    # The gradient of a square root at 0 would be NaN.
    return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-12)

  return magnitude


def high_dynamic_range(gain: float = 2.0) -> Operator:
  """Makes clip(gain x_0, -1, 1), an overexposed image."""
  return lambda x0: jnp.clip(gain * x0, -1.0, 1.0)

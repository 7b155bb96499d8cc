"""Operators against NumPy and SciPy, and their adjoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.core import operators

RNG = np.random.default_rng(0)
X = RNG.uniform(-1.0, 1.0, (2, 8, 6, 3)).astype(np.float32)
KERNEL = RNG.uniform(size=(3, 4)).astype(np.float32)
MASK = RNG.uniform(size=(8, 6)) < 0.5
LINEAR = {
  'masked': operators.masked(jnp.asarray(MASK[:, :, None])),
  'blurred': operators.blurred(jnp.asarray(KERNEL)),
  'gaussian_blur': lambda x: operators.gaussian_blur(0.8)(x),
  'motion_blur': lambda x: operators.motion_blur(2.5, 30.0)(x),
  'downsampled': operators.downsampled(jnp.asarray(KERNEL), 2),
  'pooled': operators.pooled,
  'luminance': operators.luminance,
  'fourier': operators.fourier(jnp.asarray(MASK)),
}


of_each = jax.jit(lambda x: {name: f(x) for name, f in LINEAR.items()})


@jax.jit
def transposed(ys):
  each = {name: dj.Measurement(y, LINEAR[name]) for name, y in ys.items()}
  return {name: each[name].transpose(X)(y) for name, y in ys.items()}


@pytest.mark.parametrize('name', LINEAR)
def test_the_adjoint(name):
  images = jax.device_get(of_each(X))
  rng = np.random.default_rng(1)
  ys = {k: np.float32(rng.normal(size=x.shape)) for k, x in images.items()}
  left = np.sum(images[name] * ys[name], dtype=np.float64)
  right = np.sum(X * np.asarray(transposed(ys)[name]), dtype=np.float64)
  assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_a_blur_is_scipys_circular_convolution():
  """Kernels may differ between images, and be larger than an image."""
  kernels = RNG.uniform(size=(2, 3, 5)).astype(np.float32)
  blur = jax.jit(lambda k, x: operators.blurred(k)(x))
  found = np.asarray(blur(kernels, X))
  large = RNG.uniform(size=(11, 9)).astype(np.float32)
  cases = [*zip(X, kernels, found, strict=True)]
  cases.append((X[0], large, np.asarray(blur(large, X))[0]))
  for image, kernel, blurred in cases:
    for c in range(3):
      expected = scipy.ndimage.convolve(image[..., c], kernel, mode='wrap')
      assert_allclose(blurred[..., c], expected, atol=1e-5)
  few = jax.jit(lambda k, x: operators.downsampled(k, 2)(x))(kernels, X)
  assert_allclose(few, found[:, ::2, ::2], atol=1e-6)


def test_a_gaussian_kernel():
  kernel = jax.jit(lambda std: operators.gaussian_kernel(std, 9))(1.5)
  kernel = np.asarray(kernel, np.float64)
  assert_allclose(kernel.sum(), 1.0, rtol=1e-6)
  ratio = np.exp(-0.5 * (1 + 4) / 1.5**2)
  assert_allclose(kernel[5, 6] / kernel[4, 4], ratio, rtol=1e-5)


def test_a_motion_blur_is_a_mean_along_a_line():
  """A line of pixels along the rows, and the same along the columns."""
  dot = np.zeros((1, 9, 9, 1), np.float32)
  dot[0, 4, 4, 0] = 1.0
  lines = (4.0,), (4.0, 90.0), (6.0, 45.0)
  run = jax.jit(lambda x: [operators.motion_blur(*line)(x) for line in lines])
  flat, upright, tilted = np.asarray(run(dot))[:, 0, :, :, 0]
  assert_allclose(flat.sum(), 1.0, rtol=1e-5)
  # 4 pixels long, so three pixels are covered and two by half, interpolated.
  expected = [0, 0, 0.125, 0.25, 0.25, 0.25, 0.125, 0, 0]
  assert_allclose(flat[4], expected, atol=3e-3)
  assert_allclose(upright, flat.T, atol=1e-5)
  # Counterclockwise: to the right it goes up, to smaller rows.
  assert tilted[3, 5] > 0.05 > tilted[5, 5]


def test_fourier_coefficients_and_magnitudes_are_numpys():
  spectrum = np.fft.fft2(X.astype(np.float64), axes=(1, 2), norm='ortho')
  real, imag = np.split(np.asarray(of_each(X)['fourier']), 2, axis=-1)
  expected = np.where(MASK[None, :, :, None], spectrum, 0.0)
  assert_allclose(real + 1j * imag, expected, atol=1e-5)
  padded = np.pad(X.astype(np.float64), ((0, 0), (2, 2), (2, 2), (0, 0)))
  expected = np.abs(np.fft.fft2(padded, axes=(1, 2), norm='ortho'))
  total = lambda x: operators.fourier_magnitude()(x).sum()
  run = jax.jit(lambda x: (operators.fourier_magnitude(2)(x), jax.grad(total)(0 * x)))
  found, slope = run(X)
  assert_allclose(found, expected, atol=1e-5)
  assert np.isfinite(slope).all()


def test_masks_and_overexposure():
  found = LINEAR['masked'](X)
  assert_array_equal(found, np.where(MASK[None, :, :, None], X, 0))
  found = operators.high_dynamic_range()(X)
  assert_array_equal(found, np.clip(2 * X, -1, 1))


def test_luminance_is_that_of_pillow():
  levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  expected = np.asarray(Image.fromarray(levels).convert('L'))
  found = np.asarray(jax.jit(operators.luminance)(np.float32(levels[None])))
  assert found.shape == (1, 4, 6, 1)
  assert_allclose(found[0, ..., 0], expected, atol=1.0)


def test_the_middle_of_a_kernel_is_the_pixel_itself():
  """In a kernel of even size it is right of the centre."""
  kernel = np.zeros((4, 6), np.float32)
  kernel[2, 3] = 1.0
  blurred = jax.jit(operators.blurred(kernel))(X)
  assert_allclose(blurred, X, atol=1e-6)


def test_the_gaussian_blur_is_scipys():
  """The kernel spans three deviations, 3 pixels on each side."""
  found = of_each(X)['gaussian_blur']
  sigmas = 0.0, 0.8, 0.8, 0.0
  expected = scipy.ndimage.gaussian_filter(X, sigmas, mode='wrap', truncate=3.75)
  assert_allclose(found, expected, atol=1e-5)

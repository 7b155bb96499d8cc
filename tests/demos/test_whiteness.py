"""The power spectrum of white noise is 1 within the error that is stated."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.demos import whiteness


def test_white_noise_has_power_one_at_every_frequency():
  noise = np.random.default_rng(0).standard_normal((128, 96, 3))
  frequency, power = whiteness.radial_power_spectrum(noise)
  assert frequency[0] == 1 / 96 and frequency[-1] == 0.5
  # a ring of radius r has about 2 pi r waves, half of them independent
  waves = 3 * np.pi * frequency * 96
  assert (np.abs(power - 1.0) < 5 / np.sqrt(waves)).all()


def test_a_wave_has_its_power_at_its_frequency():
  """A cosine of k cycles has |FFT|^2 / N = N / 4 at +-k."""
  x = np.arange(64) / 64
  image = np.cos(2 * np.pi * 8 * x)[None, :, None] * np.ones((64, 1, 1))
  frequency, power = whiteness.radial_power_spectrum(image)
  peak = np.argmax(power)
  assert frequency[peak] == 8 / 64
  waves = np.bincount(
    np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(64) * 64] * 2))).astype(int).ravel()
  )
  assert_allclose(power[peak] * waves[8], 2 * 64**2 / 4)
  assert power[peak] > 1e6 * np.delete(power, peak).max()


def test_distance_is_within_its_error_of_the_closed_form():
  z = np.random.default_rng(1).uniform(-1, 1, (20, 20))
  found = whiteness.distance_to_noise(z, 400)
  exact = np.sum(z**2) + 400
  assert_allclose(found['closed_form'], exact)
  assert abs(found['mean'] - exact) < 5 * found['standard_error']
  # Var |eps - z|^2 = 2 D + 4 |z|^2
  expected = np.sqrt((2 * 400 + 4 * np.sum(z**2)) / 400)
  assert_allclose(found['standard_error'], expected, rtol=0.2)


def test_correlation_is_numpys():
  a, b = np.random.default_rng(0).standard_normal((2, 5, 4))
  expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
  assert whiteness.correlation(a, b) == pytest.approx(expected)
  for constant in (1.0, 0.1):
    assert np.isnan(whiteness.correlation(a, np.full((5, 4), constant)))

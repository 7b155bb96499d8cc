"""Measures of the whiteness of z_T, the last latent of the process."""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.data.spec import mean_and_std


def radial_power_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (frequency [R], power [R]) of an image [H, W, C].

  Frequencies are in cycles per pixel. The power is the mean over channels and
  rings of |FFT|^2 / (H W) after the image's mean is subtracted: standard normal
  noise has power 1 at every frequency.
  """
  image = np.asarray(image, np.float64)
  image = image - image.mean(axis=(0, 1))
  height, width = image.shape[:2]
  power = np.abs(np.fft.fft2(image, axes=(0, 1))) ** 2 / (height * width)
  y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
  size = min(height, width)
  ring = np.rint(np.hypot(y, x) * size).astype(int)
  count = np.bincount(ring.ravel())
  total = np.bincount(ring.ravel(), power.mean(axis=-1).ravel())
  kept = slice(1, size // 2 + 1)  # From one cycle per image to Nyquist.
  return np.arange(size)[kept] / size, total[kept] / count[kept]


def distance_to_noise(z: np.ndarray, num_draws: int, seed: int = 0) -> dict[str, float]:
  """Estimates E|eps - z|^2, eps ~ N(0, I), z fixed, by Monte Carlo.

  z: [...] with D entries; num_draws: the draws of eps, at least 2. Returns
  `mean` and `standard_error` over the draws, and `closed_form`, |z|^2 + D.
  """
  check_at_least(2, num_draws=num_draws)
  rng = np.random.default_rng(seed)
  z = np.asarray(z, np.float64).ravel()
  draws = [np.sum((rng.standard_normal(z.size) - z) ** 2) for _ in range(num_draws)]
  return {
    'mean': float(np.mean(draws)),
    'standard_error': float(np.std(draws, ddof=1) / num_draws**0.5),
    'closed_form': float(z @ z + z.size),
  }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the Pearson correlation of two arrays; NaN if one is constant."""
  a, b = (np.asarray(v, np.float64).ravel() for v in (a, b))
  (mean_a, std_a), (mean_b, std_b) = mean_and_std(a), mean_and_std(b)
  if not std_a * std_b:
    return float('nan')
  return float(np.mean((a - mean_a) * (b - mean_b)) / (std_a * std_b))

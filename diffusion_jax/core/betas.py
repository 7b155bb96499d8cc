"""Published beta sequences as NumPy float64 arrays of length T.

`DiscreteSchedule.from_betas` makes a schedule from any such array;
`from_alphas` takes 1 - betas.
"""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.ranges import NonNegative, Probability


def linear_betas(
  num_steps: int = 1000, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """Returns betas evenly spaced from `start` to `end` (DDPM section 4), [T]."""
  return np.linspace(start, end, _positive(num_steps), dtype=np.float64)


def rescaled_linear_betas(num_steps: int = 1000) -> np.ndarray:
  """Returns DDPM's linear betas times 1000 / T (Nichol & Dhariwal's code), [T].

  This keeps alpha_bar_T near DDPM's 4e-5 for any T. At T = 20 the last beta is
  1, zero terminal SNR; for smaller T it is above 1, which `from_betas` refuses.
  """
  scale = 1000.0 / _positive(num_steps)
  return linear_betas(num_steps, 1e-4 * scale, 0.02 * scale)


def quadratic_betas(
  num_steps: int = 1000, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """Returns betas with evenly spaced square roots (DDPM's 'quad'), [T]."""
  return linear_betas(num_steps, start**0.5, end**0.5) ** 2


def scaled_linear_betas(
  num_steps: int = 1000, start: float = 0.00085, end: float = 0.012
) -> np.ndarray:
  """Returns latent diffusion's 'scaled_linear': `quadratic_betas`, [T]."""
  return quadratic_betas(num_steps, start, end)


def cosine_betas(
  num_steps: int = 1000, s: NonNegative = 0.008, max_beta: Probability = 0.999
) -> np.ndarray:
  """Returns min(1 - abar(i/T) / abar((i-1)/T), max_beta) (IDDPM Eq. 17), [T].

  abar(t) = cos^2((t + s) / (1 + s) * pi / 2), up to a constant that cancels.
  """
  t = np.linspace(0.0, 1.0, _positive(num_steps) + 1)
  alpha_bars = np.cos((t + s) / (1.0 + s) * np.pi / 2.0) ** 2
  return np.minimum(1.0 - alpha_bars[1:] / alpha_bars[:-1], max_beta)


def sigmoid_betas(
  num_steps: int = 1000, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """Returns a logistic curve over [-6, 6] from start to end (GeoDiff), [T]."""
  curve = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, _positive(num_steps))))
  return curve * (end - start) + start


def constant_betas(num_steps: int = 1000, value: float = 0.02) -> np.ndarray:
  """Returns `value` at every step ('const' in DDPM), [T]."""
  return linear_betas(num_steps, value, value)


def warmup_betas(
  num_steps: int = 1000,
  fraction: Probability = 0.1,
  start: float = 1e-4,
  end: float = 0.02,
) -> np.ndarray:
  """Returns a line to `end` over the first fraction * T steps, then `end`, [T].

  Ho et al.'s 'warmup10' and 'warmup50' use the fractions 0.1 and 0.5.
  """
  betas = constant_betas(num_steps, end)
  ramp = int(num_steps * fraction)
  betas[:ramp] = np.linspace(start, end, ramp)
  return betas


def reciprocal_betas(num_steps: int = 1000) -> np.ndarray:
  """Returns 1/T, 1/(T-1), ..., 1 ('jsd' in DDPM; Sohl-Dickstein 2015), [T].

  alpha_bar_i = 1 - i/T falls linearly to exactly zero.
  """
  return 1.0 / np.arange(_positive(num_steps), 0, -1, dtype=np.float64)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
  """Rescales betas [T] so that the last alpha_bar is 0 and the first is kept.

  It shifts and scales sqrt(alpha_bar) (Lin et al. 2023, Common Diffusion Noise
  Schedules and Sample Steps are Flawed, Alg. 1). T must be at least 2.
  """
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or len(betas) < 2:
    raise ValueError('zero_terminal_snr needs a sequence of 2 or more betas')
  root = np.sqrt(np.cumprod(1.0 - betas))
  root = (root - root[-1]) * root[0] / (root[0] - root[-1])
  alpha_bars = np.concatenate([[1.0], root**2])
  return 1.0 - alpha_bars[1:] / alpha_bars[:-1]


def _positive(num_steps: int) -> int:
  check_at_least(1, num_steps=num_steps)
  return num_steps

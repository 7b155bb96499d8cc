"""The published beta sequences: NumPy float64 arrays of length T.

A sequence of one's own is an array like any of these; hand it to
`DiscreteSchedule.from_betas` (or its 1 - beta to `from_alphas`).
"""

import numpy as np


def linear_betas(
  num_steps: int, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """beta_1..beta_T evenly spaced from `start` to `end` (DDPM section 4)."""
  return np.linspace(start, end, _positive(num_steps), dtype=np.float64)


def rescaled_linear_betas(num_steps: int) -> np.ndarray:
  """DDPM's line with both ends times 1000 / T (Nichol & Dhariwal's code).

  Keeps alpha_bar_T near DDPM's 4e-5 for any T; for T <= 20 the last beta would
  reach 1 and `from_betas` refuses it or takes it as zero terminal SNR.
  """
  scale = 1000.0 / _positive(num_steps)
  return linear_betas(num_steps, 1e-4 * scale, 0.02 * scale)


def quadratic_betas(
  num_steps: int, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """The square of a line from sqrt(start) to sqrt(end) ('quad' in DDPM)."""
  return linear_betas(num_steps, start**0.5, end**0.5) ** 2


def scaled_linear_betas(
  num_steps: int, start: float = 0.00085, end: float = 0.012
) -> np.ndarray:
  """Latent diffusion's 'scaled_linear': `quadratic_betas` with its own ends."""
  return quadratic_betas(num_steps, start, end)


def cosine_betas(
  num_steps: int, s: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
  """beta_i = min(1 - abar(i/T) / abar((i-1)/T), max_beta) (IDDPM Eq. 17).

  abar(t) = cos^2((t + s) / (1 + s) * pi / 2), up to a constant that cancels.
  """
  t = np.linspace(0.0, 1.0, _positive(num_steps) + 1)
  alpha_bars = np.cos((t + s) / (1.0 + s) * np.pi / 2.0) ** 2
  return np.minimum(1.0 - alpha_bars[1:] / alpha_bars[:-1], max_beta)


def sigmoid_betas(
  num_steps: int, start: float = 1e-4, end: float = 0.02
) -> np.ndarray:
  """A logistic curve over [-6, 6] between `start` and `end` (GeoDiff)."""
  curve = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, _positive(num_steps))))
  return curve * (end - start) + start


def constant_betas(num_steps: int, value: float = 0.02) -> np.ndarray:
  """beta_i = value at every step ('const' in DDPM)."""
  return linear_betas(num_steps, value, value)


def warmup_betas(
  num_steps: int,
  fraction: float = 0.1,
  start: float = 1e-4,
  end: float = 0.02,
) -> np.ndarray:
  """A line to `end` over the first fraction * T steps, constant after it.

  'warmup10' and 'warmup50' of Ho et al.: fraction 0.1 and 0.5.
  """
  betas = constant_betas(num_steps, end)
  ramp = int(num_steps * fraction)
  betas[:ramp] = np.linspace(start, end, ramp)
  return betas


def reciprocal_betas(num_steps: int) -> np.ndarray:
  """1/T, 1/(T-1), ..., 1/2, 1 ('jsd' in DDPM; Sohl-Dickstein et al. 2015).

  The signal falls along a line, alpha_bar_i = 1 - i/T, to exactly zero.
  """
  return 1.0 / np.arange(_positive(num_steps), 0, -1, dtype=np.float64)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
  """Shifts and scales sqrt(alpha_bar) so that the last is 0, the first kept.

  Lin et al. 2023 (Common Diffusion Noise Schedules and Sample Steps are
  Flawed), Alg. 1. betas: [T], T >= 2; returns [T] with beta_T = 1.
  """
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or len(betas) < 2:
    raise ValueError('zero_terminal_snr needs a sequence of 2 or more betas')
  root = np.sqrt(np.cumprod(1.0 - betas))
  root = (root - root[-1]) * root[0] / (root[0] - root[-1])
  alpha_bars = np.concatenate([[1.0], root**2])
  return 1.0 - alpha_bars[1:] / alpha_bars[:-1]


def _positive(num_steps: int) -> int:
  if num_steps < 1:
    raise ValueError(f'num_steps is {num_steps}: at least 1 step is needed')
  return num_steps

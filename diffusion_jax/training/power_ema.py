"""Averages by a power of time, chosen after training (Karras et al. 2024).

After t images the average with exponent gamma weights the parameters at image
tau by its profile p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), 0 <= tau <=
t. Its relative width is the standard deviation of the profile, divided by t.
Sums of a few stored averages approximate the average of any other width (EDM2,
Appendix C). Everything is float64 on the host.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

# The width of gamma = 0, the plain mean. With a larger width early parameters
# would have more weight than late ones.
WIDEST = 1.0 / math.sqrt(12.0)
# Weights below this, relative to the largest, are rounding errors.
_NEGLIGIBLE = 1e-12
_WIDTH = 'sigma_rel_'


class Solution(NamedTuple):
  """Holds the weights [N] of stored averages, which sum to 1.

  residual: of their profile, |profile - target| / |target| in the mean square
  over tau; 1e-8 and less is exact.
  """

  weights: np.ndarray
  residual: float


def exponent(sigma_rel: float) -> float:
  """Returns the gamma >= 0 of a relative width (EDM2, Eq. 3).

  It is the largest root of gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, where
  s is 1 / sigma_rel^2. Raises ValueError outside of (0, 1 / sqrt(12)].
  """
  if not 0.0 < sigma_rel <= WIDEST:
    raise ValueError(f'a relative width must be in (0, {WIDEST:.4f}], got {sigma_rel}')
  s = sigma_rel**-2.0
  roots = np.roots([1.0, 7.0, 16.0 - s, 12.0 - s])
  return max(float(roots.real.max()), 0.0)


def inner_product(
  t_a: np.ndarray | float,
  gamma_a: np.ndarray | float,
  t_b: np.ndarray | float,
  gamma_b: np.ndarray | float,
) -> np.ndarray:
  """Returns the integral over tau of two profiles' product, in 1 / images.

  Arguments are broadcast; times are positive (EDM2, Appendix C).
  """
  shorter = np.minimum(t_a, t_b)
  a, b = gamma_a + 1.0, gamma_b + 1.0
  powers = (shorter / t_a) ** a * (shorter / t_b) ** b
  return a * b / (gamma_a + gamma_b + 1.0) * powers / shorter


def solve(t: np.ndarray, gamma: np.ndarray, t_out: float, gamma_out: float) -> Solution:
  """Returns the weights of averages (t, gamma), [N] each, for another average.

  Their profile is nearest to the profile of (t_out, gamma_out) in the mean
  square; they are divided by their sum (EDM2, Appendix C). t: positive, in any
  unit, best with t_out among them. Raises ValueError for equal averages.
  """
  t, gamma = np.asarray(t, np.float64), np.asarray(gamma, np.float64)
  stored = (t == t_out) & (gamma == gamma_out)
  if stored.any():
    return Solution(stored / stored.sum(), 0.0)
  if len(set(zip(t, gamma, strict=True))) < len(t):
    raise ValueError('stored averages must differ in time or width')
  products = inner_product(t[:, None], gamma[:, None], t, gamma)
  wanted = inner_product(t, gamma, t_out, gamma_out)
  # Cosines instead of products, since their sizes do not depend on the times.
  scale = 1.0 / np.sqrt(np.diag(products))
  x = scale * np.linalg.solve(scale[:, None] * products * scale, scale * wanted)
  norm = inner_product(t_out, gamma_out, t_out, gamma_out)
  left = norm - 2.0 * x @ wanted + x @ products @ x
  x = x / x.sum()
  x[np.abs(x) < _NEGLIGIBLE * np.abs(x).max()] = 0.0
  return Solution(x, math.sqrt(max(left / norm, 0.0)))


def combine(parts: Iterable[tuple[float, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
  """Returns the sum of weight * arrays, by name, in the arrays' own type.

  parts: (weight, arrays); one of them is in memory at a time. The sum is
  float64: weights have both signs, and their absolute values may sum to tens.
  """
  total: dict[str, np.ndarray] = {}
  types = {}
  for weight, arrays in parts:
    for name, x in arrays.items():
      part = np.multiply(x, weight, dtype=np.float64)
      if name in total:
        total[name] += part
      else:
        total[name], types[name] = np.array(part), x.dtype
  return {name: x.astype(types[name]) for name, x in total.items()}


def decay_name(decay: float) -> str:
  """Returns the name of an average in checkpoints, such as '0.999'."""
  return repr(float(decay))


def width_name(sigma_rel: float) -> str:
  """Returns the name of an average by a power of time: 'sigma_rel_0.05'."""
  return f'{_WIDTH}{float(sigma_rel)!r}'


def width_of(name: str) -> float | None:
  """Returns the width in the name of an average, or None."""
  has_width = name.startswith(_WIDTH)
  return float(name.removeprefix(_WIDTH)) if has_width else None

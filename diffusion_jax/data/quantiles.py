"""Numbers of a column by their quantiles, to a standard normal and back.

A column has knots and, if its numbers repeat, the share of each: a number is then
one of the knots. Other columns have up to MOST_KNOTS quantiles at even probabilities,
and are linear between them, as in scikit-learn's QuantileTransformer. A value that
repeats, such as a cap, has an interval of probabilities, whose middle it is encoded as.
"""

from collections.abc import Sequence

import numpy as np

MOST_KNOTS = 1000
REPEATS = 10  # A column repeats if its numbers come at least so often on average.
FARTHEST = 5.2  # standard deviations, of a probability of 1e-7


def fitted(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (knots, shares) of finite numbers [N], N >= 1; shares is () unless they repeat."""
  numbers, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
  if len(numbers) <= min(MOST_KNOTS, max(1, len(values) // REPEATS)):
    return tuple(numbers.tolist()), tuple((counts / len(values)).tolist())
  places = np.linspace(0.0, 1.0, min(MOST_KNOTS, len(values)))
  return tuple(np.quantile(values, places).tolist()), ()


def _curve(knots, shares):
  # Returns numbers and their probabilities, both ascending. The ends are the least and
  # the largest number seen: u = 1 / 2K is as far from 0 as the mid-rank of the lowest of K numbers.
  knots = np.asarray(knots, np.float64)
  if len(shares):
    ends = np.cumsum(shares) / np.sum(shares)
    return np.repeat(knots, 2), np.stack([np.append(0.0, ends[:-1]), ends], 1).ravel()
  return knots, (np.arange(len(knots)) + 0.5) / len(knots)


def to_normal(values: np.ndarray, knots: Sequence[float], shares: Sequence[float]) -> np.ndarray:
  """Maps numbers [N] to a standard normal, float64; NaN stays NaN."""
  from scipy.special import ndtri

  numbers, u = _curve(knots, shares)
  upper = np.interp(values, numbers, u)
  lower = -np.interp(-np.asarray(values), -numbers[::-1], -u[::-1])
  return np.clip(ndtri(0.5 * (lower + upper)), -FARTHEST, FARTHEST)


def from_normal(z: np.ndarray, knots: Sequence[float], shares: Sequence[float]) -> np.ndarray:
  """Returns the numbers [N] of z, the inverse of `to_normal` for numbers that were seen."""
  from scipy.special import ndtr

  u = ndtr(np.asarray(z, np.float64))
  if len(shares):
    ends = np.cumsum(shares) / np.sum(shares)
    return np.asarray(knots, np.float64)[np.minimum(np.searchsorted(ends, u), len(knots) - 1)]
  numbers, places = _curve(knots, shares)
  return np.interp(u, places, numbers)

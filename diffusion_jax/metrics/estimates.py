"""Estimates with their standard errors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
  """A value and its standard error, NaN if it is unknown."""

  value: float
  error: float = float('nan')


class Missing(ValueError):
  """Raised if the sets do not have the arrays that a metric needs."""


def mean(values: np.ndarray) -> Estimate:
  """Returns the mean of values [N], one per image, and its standard error.

  The error of one value is NaN.
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  error = np.std(values, ddof=1) / n**0.5 if n > 1 else np.nan
  return Estimate(float(np.mean(values)), float(error))


def prediction_interval(values: np.ndarray, coverage: float = 0.95) -> tuple[float, float]:
  """Returns the interval in which one more value is with the probability `coverage`.

  values: [N], N > 1, independent and normal, as the next one is:
  mean ± t sqrt(1 + 1 / N) std, with a quantile of Student's t of N - 1 degrees of freedom. The
  range of the values themselves has the next one with the probability (N - 1) / (N + 1) only.
  """
  from scipy import stats

  values = np.asarray(values, np.float64)
  n = len(values)
  quantile = stats.t.ppf((1.0 + coverage) / 2.0, n - 1)
  half = quantile * (1.0 + 1.0 / n) ** 0.5 * np.std(values, ddof=1)
  return float(np.mean(values) - half), float(np.mean(values) + half)


def ratio(total: np.ndarray, count: np.ndarray) -> Estimate:
  """Returns the ratio of sums over examples, [N] each, with its error to first order."""
  total, count = total.astype(np.float64), count.astype(np.float64)
  value, several = total.sum() / count.sum(), np.count_nonzero(count) > 1
  error = mean((total - value * count) / count.mean()).error if several else np.nan
  return Estimate(float(value), error)


def per_number(values: np.ndarray, numbers: np.ndarray | None = None) -> Estimate:
  """Returns the mean of values [N], each of which is a mean over the numbers of an example.

  numbers: how many these are, [N], by which examples with lengths are weighted; None: as many
  in each.
  """
  return mean(values) if numbers is None else ratio(values * numbers, numbers)


def bootstrap(
  statistic: Callable[[np.ndarray], float], features: np.ndarray, num_draws: int = 20, seed: int = 0
) -> Estimate:
  """Returns statistic(features) and its standard error by the bootstrap.

  The error is the standard deviation of the statistic over num_draws sets of N
  rows that are drawn with replacement from features [N, D] (Efron 1979). It
  does not contain the bias of the statistic. NaN for fewer than 2 draws.
  """
  rng = np.random.default_rng(seed)
  n = len(features)
  draws = [statistic(features[rng.integers(0, n, n)]) for _ in range(num_draws)]
  error = np.std(draws, ddof=1) if num_draws > 1 else float('nan')
  return Estimate(float(statistic(features)), float(error))


def check_pair(samples: np.ndarray, reference: np.ndarray) -> None:
  """Raises ValueError unless both are [N, D], N > 0, with the same D."""
  check_features('samples', samples)
  check_features('reference', reference)
  if samples.shape[1] != reference.shape[1]:
    raise ValueError(
      f'{samples.shape[1]} features cannot be compared with '
      f'{reference.shape[1]}: both sets need the same extractor'
    )


def check_features(name: str, x: np.ndarray) -> None:
  """Raises ValueError unless x is [N, D], N > 0, and finite."""
  if x.ndim != 2 or not len(x):
    raise ValueError(f'{name}: features are [N, D], not {list(x.shape)}')
  check_finite(f'features of {name}', x)


def check_finite(name: str, x: np.ndarray) -> None:
  """Raises ValueError for rows of x [N, ...] with NaN or infinities."""
  bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
  if bad.any():
    raise ValueError(
      f'{name}: {bad.sum():,} of {len(x):,} rows, such as row '
      f'{bad.argmax():,}, have numbers that are not finite: leave them out'
    )

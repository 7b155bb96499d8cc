"""The energy distance of several sets to one reference, and differences of sets that are paired."""

from typing import NamedTuple

import numpy as np

from diffusion_jax.metrics.estimates import Estimate, check_pair
from diffusion_jax.metrics.mmd import row_means

MOST = 2000  # rows of a set that are compared: memory grows with their square
UNIT = 'energy distance'


class Apart(NamedTuple):
  """What pairs of rows of a set add to its distance, [N, N], 0 on the diagonal.

  The mean over all others is `energy_distance` to the reference, which is fixed.
  """

  pairs: np.ndarray


def apart(samples: np.ndarray, reference: np.ndarray) -> Apart:
  """Returns how far the first MOST rows of samples [N, D] are from [M, D], N and M > 1.

  Row i, j is |x_i - y| + |x_j - y| - |x_i - x_j| - |y - y'|, whose y are averaged over the
  reference (Szekely & Rizzo 2013, Eq. 6). Its mean is 0 for equal laws, whatever N is.
  """
  from scipy.spatial.distance import cdist

  check_pair(samples, reference)
  x = np.asarray(samples[:MOST], np.float64)
  to_reference = row_means(x, reference, cdist)
  within = row_means(reference, reference, cdist, own=False).mean()
  pairs = to_reference[:, None] + to_reference[None] - cdist(x, x) - within
  np.fill_diagonal(pairs, 0.0)
  return Apart(pairs)


def distance(x: Apart) -> Estimate:
  """Returns the energy distance, and the error that is due to the samples."""
  return _mean_of_pairs(x.pairs)


def difference(x: Apart, y: Apart, paired: bool = True) -> Estimate:
  """Returns the difference of two distances, x less y.

  paired: row i of both began with the same noise, so that the difference has a smaller error.
  """
  if paired:
    return _mean_of_pairs(x.pairs - y.pairs)
  one, other = distance(x), distance(y)
  return Estimate(one.value - other.value, float(np.hypot(one.error, other.error)))


def _mean_of_pairs(pairs):
  # Returns the mean of pairs [N, N] but the diagonal, a U-statistic, and its error. The second
  # order is the whole error where samples have the law of the reference.
  n = len(pairs)
  mean = pairs.sum() / (n * (n - 1))
  rows = pairs.sum(axis=1) / (n - 1)
  rest = pairs - rows[:, None] - rows[None] + mean
  np.fill_diagonal(rest, 0.0)
  variance = 4.0 * np.var(rows) / n + 2.0 * np.square(rest).sum() / (n * (n - 1)) ** 2
  return Estimate(float(mean), float(np.sqrt(variance)))

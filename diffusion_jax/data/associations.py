"""How much two columns of a table have to do with each other, on one scale."""

import numpy as np


def association(x: np.ndarray, y: np.ndarray, sizes: tuple[int, int]) -> float:
  """Returns the association of two columns [N], of rows that have both cells; NaN if undefined.

  Of numbers (size 0) Pearson's correlation; of a number and categories the correlation ratio, of
  categories Cramer's V, both without the bias of few rows (Bergsma 2013), in [0, 1].
  """
  both = ~(np.isnan(x) | np.isnan(y))
  x, y = x[both], y[both]
  if len(x) < 3:
    return np.nan
  if not any(sizes):
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
      return np.nan
    return float(np.corrcoef(x, y)[0, 1])
  if all(sizes):
    return _cramers_v(x, y)
  return _correlation_ratio(*((y, x) if sizes[1] else (x, y)))


def _correlation_ratio(classes, numbers):
  _, of, counts = np.unique(classes, return_inverse=True, return_counts=True)
  z = numbers - numbers.mean()
  total, free = z @ z, len(z) - len(counts)
  if total == 0.0 or free < 1 or len(counts) < 2:
    return np.nan
  within = 1.0 - (np.bincount(of, z) ** 2 / counts).sum() / total
  return float(np.sqrt(max(0.0, 1.0 - within * (len(z) - 1) / free)))


def _cramers_v(x, y):
  n = len(x)
  (_, i), (_, j) = (np.unique(z, return_inverse=True) for z in (x, y))
  counts = np.zeros((i.max() + 1, j.max() + 1))
  np.add.at(counts, (i, j), 1.0)
  rows, columns = counts.shape
  if min(counts.shape) < 2:
    return np.nan
  expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / n
  phi = ((counts - expected) ** 2 / expected).sum() / n
  phi = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
  free = min(k - (k - 1) ** 2 / (n - 1) for k in (rows, columns)) - 1.0
  return float(np.sqrt(min(1.0, phi / free))) if free > 0.0 else np.nan


def associations(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the association of each pair of columns of rows [N, C], symmetric [C, C], 1 alone."""
  found = np.eye(len(sizes))
  for i in range(len(sizes)):
    for j in range(i):
      pair = int(sizes[i]), int(sizes[j])
      found[i, j] = found[j, i] = association(rows[:, i], rows[:, j], pair)
  return found

"""Draws again of samples that are not in the support of the data."""

from collections.abc import Callable

import numpy as np

_APART = 2**22  # between the indices of the keys of two attempts at a sample


def redraw_outside(
  draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
  inside: Callable[[np.ndarray], np.ndarray],
  samples: np.ndarray,
  index: np.ndarray,
  attempts: int,
) -> tuple[np.ndarray, int, np.ndarray]:
  """Replaces samples outside a set by the first draw inside (rejection).

  Args:
    draw: (index of the samples [n], index of the keys [n]) -> samples [n, ...].
      No two attempts have the same key.
    inside: samples [n, ...] -> bool [n].
    samples: The first draws [N, ...], which are overwritten.
    index: Of the samples [N], < 2^22.
    attempts: The most draws of each sample, with the first.

  Returns:
    (samples, the number of draws outside, the rows that are still outside).
  """
  num_outside, tried = 0, 1
  rows = np.flatnonzero(~inside(samples))
  while len(rows):
    num_outside += len(rows)
    if tried >= attempts:
      break
    # Each gets several attempts, to fill the batch; the first inside counts.
    each = min(max(1, len(samples) // len(rows)), attempts - tried)
    repeated = index[rows].repeat(each)
    attempt = np.tile(tried + np.arange(each), len(rows))
    draws = draw(repeated, repeated + _APART * attempt)
    accepted = inside(draws).reshape(-1, each)
    found = accepted.any(axis=1)
    first = np.where(found, accepted.argmax(axis=1), each - 1)
    num_outside += int(first.sum())
    samples[rows[found]] = draws[(np.arange(len(rows)) * each + first)[found]]
    tried += each
    rows = rows[~found]
  return samples, num_outside, rows

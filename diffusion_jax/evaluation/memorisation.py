"""Whether samples copy training images, by their nearest neighbours."""

from typing import NamedTuple

import numpy as np

from diffusion_jax.data.images import grid
from diffusion_jax.evaluation.estimates import Estimate, check_pair, mean
from diffusion_jax.evaluation.neighbours import nearest


class Memorisation(NamedTuple):
  """Holds distances to the nearest training image, of samples and of test.

  closer: the probability that a sample is closer to the training set than a
  test image, 1/2 for samples of the law of the data; copied: the fraction of
  samples that are closer than the closest hundredth of the test images, 0.01
  for such samples. index: of the nearest training images, [N].
  """

  samples: np.ndarray
  test: np.ndarray
  closer: Estimate
  copied: Estimate
  index: np.ndarray


def memorisation(
  samples: np.ndarray, train: np.ndarray, test: np.ndarray
) -> Memorisation:
  """Compares distances to train of samples [N, D] and of test [M, D].

  `closer` is the U statistic of the data-copying test (Meehan et al. 2020), of
  features or of pixels; equal distances count as a half. Its error is of both
  sets. Raises ValueError.
  """
  check_pair(samples, train)
  check_pair(test, train)
  (near, index), (usual, _) = nearest(samples, train), nearest(test, train)
  limit = np.quantile(usual, 0.01)
  return Memorisation(
    near, usual, _probability_less(near, usual), mean(near < limit), index
  )


def _probability_less(a, b):
  # P(a < b) + P(a = b) / 2, with the error of a two-sample U statistic.
  rank_a, rank_b = _below(b, a), _below(a, b)
  variance = np.var(rank_a) / len(a) + np.var(rank_b) / len(b)
  return Estimate(float(1.0 - rank_a.mean()), float(variance**0.5))


def _below(values, points):
  # The fraction of values below each point; equal ones count as a half.
  ordered = np.sort(values)
  left = np.searchsorted(ordered, points, 'left')
  right = np.searchsorted(ordered, points, 'right')
  return (left + right) / (2.0 * len(values))


def pair_sheet(
  samples: np.ndarray, neighbours: np.ndarray, columns: int = 10
) -> np.ndarray:
  """Draws pairs of images, uint8 [N, H, W, C], side by side, N in rows.

  Returns uint8 [h, w, C].
  """
  pairs = np.concatenate([samples, neighbours], axis=2)
  zoom = max(1, round(48 / samples.shape[1]))
  return grid(pairs, min(columns, len(pairs)), zoom)

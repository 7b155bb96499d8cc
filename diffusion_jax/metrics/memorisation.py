"""Finds copies of training images among samples, by nearest neighbours."""

from typing import NamedTuple

import numpy as np

from diffusion_jax.data.drawings import grid
from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.estimates import Estimate, Missing, check_pair
from diffusion_jax.metrics.metric import SampleMetric, Score, take, take_features
from diffusion_jax.metrics.neighbours import nearest

FRACTION = 0.01  # samples closer than this fraction of test images count as copied
# Relative difference of two computations of the same features.
_ROUNDING = 1e-5


class Memorisation(NamedTuple):
  """The distances of samples and test images to the nearest training image.

  closer: the probability that a sample is closer to the training set than a
  test image, 1/2 for samples of the law of the data; copied: the fraction of
  samples that are closer than the closest hundredth of the test images, with
  the expectation `expected` for such samples. index: of the nearest training
  images, [N]. overlap: the number of test images that are in the training set;
  `test` leaves them out.
  """

  samples: np.ndarray
  test: np.ndarray
  closer: Estimate
  copied: Estimate
  expected: float
  index: np.ndarray
  overlap: int


def memorisation(samples: np.ndarray, train: np.ndarray, test: np.ndarray) -> Memorisation:
  """Compares distances to train of samples [N, D] and of test [M, D].

  `closer` is the U statistic of the data-copying test (Meehan et al. 2020), of
  features or of pixels; equal distances count as a half. Test images that are
  in the training set are left out. Errors are due to both sets. Raises
  ValueError, as `Missing` if no test image is left.
  """
  check_pair(samples, train)
  check_pair(test, train)
  (near, index), (usual, _) = nearest(samples, train), nearest(test, train)
  apart = usual > _ROUNDING * np.linalg.norm(test, axis=1)
  if not apart.any():
    raise Missing(
      f'memorisation needs 1 held-out image that is not in the reference: all {len(test):,} are'
    )
  usual = usual[apart]
  return Memorisation(
    near,
    usual,
    closer=_probability_less(near, usual),
    copied=fraction_copied(near, usual),
    expected=expected_fraction(len(usual)),
    index=index,
    overlap=int(np.sum(~apart)),
  )


@declares(
  what='distances to the nearest training images, [below](#is-it-memorised)',
  needs='a test split',
)
@lattices.named
def copies(features: tuple[str, ...] = ()) -> SampleMetric:
  """Whether samples are closer to the reference than held-out examples.

  Its scores are described at `memorisation`.
  """

  def compute(samples, reference):
    x, y = take_features('memorisation', samples, reference, (1, 1))
    found = memorisation(x, y, take('memorisation', reference, 'held_out'))
    near, usual = np.median(found.samples), np.median(found.test)
    held_out = f'{len(found.test):,} held-out examples'
    if found.overlap:
      held_out += f' ({found.overlap:,} more are in the reference)'
    closer = f'to the reference than {held_out}: 0.5 without copies'
    expected = f'{found.expected:.3g} without copies'
    copied = f'closer than 1 % of {held_out}: {expected}'
    return [
      Score('closer', found.closer, closer),
      Score('copied', found.copied, copied),
      Score('nearest', Estimate(float(near)), 'median distance of the samples'),
      Score('nearest_held_out', Estimate(float(usual)), 'of held-out examples'),
    ]

  names = 'closer', 'copied', 'nearest', 'nearest_held_out'
  needs = 'features', 'held_out'
  return SampleMetric(dict.fromkeys(names, False), needs, compute, features)


def fraction_copied(near: np.ndarray, usual: np.ndarray) -> Estimate:
  """Returns the fraction of distances near [N] below a quantile of usual [M].

  The quantile is FRACTION. Between two order statistics of `usual` the
  fractions below them are interpolated, not the distances, and if distances of
  `usual` are equal, equal ones are in random order: for distances of the same
  law the expectation is then `expected_fraction`. The error is due to both sets.
  """
  import scipy.special  # not at every start of the program

  n, m = len(near), len(usual)
  if len(np.unique(usual)) < m:
    both = np.concatenate([near, usual])
    order = np.lexsort((np.random.default_rng(0).random(n + m), both))
    near, usual = np.split(np.argsort(order), [n])  # their ranks
  below = np.searchsorted(np.sort(near), np.sort(usual), 'left') / n
  k = _order(m)
  part = k % 1.0
  first, second = below[int(k) - 1], below[min(int(k), m - 1)]
  value = first + part * (second - first)
  # A distance counts as 1, `part` or 0.
  variance = (first + part**2 * (second - first) - value**2) / n
  # The quantile varies as by a bootstrap of `usual` with very many draws: the
  # probability that order statistic k of a draw is distance i is weights[i].
  edges = scipy.special.betainc(k, m + 1 - k, np.arange(m + 1) / m)
  weights = np.diff(edges)
  variance += weights @ (below - weights @ below) ** 2
  return Estimate(float(value), float(variance**0.5))


def expected_fraction(m: int) -> float:
  """Returns the expectation of `fraction_copied` for samples without copies.

  Order statistic k of M distances has k / (M + 1) of their law below it. The
  quantile q is order statistic q (M - 1) + 1, which need not be an integer.
  """
  return _order(m) / (m + 1)


def _order(m):
  return FRACTION * (m - 1) + 1.0


def _probability_less(a, b):
  # P(a < b) + P(a = b) / 2, and its error as a two-sample U statistic.
  rank_a, rank_b = _below(b, a), _below(a, b)
  variance = np.var(rank_a) / len(a) + np.var(rank_b) / len(b)
  return Estimate(float(1.0 - rank_a.mean()), float(variance**0.5))


def _below(values, points):
  # Returns the fraction of values below each point; equal ones count half.
  ordered = np.sort(values)
  left = np.searchsorted(ordered, points, 'left')
  return (left + np.searchsorted(ordered, points, 'right')) / (2.0 * len(values))


def pair_sheet(samples: np.ndarray, neighbours: np.ndarray, columns: int = 10) -> np.ndarray:
  """Draws pairs of images, uint8 [N, H, W, C], side by side, N in rows.

  Returns uint8 [h, w, C].
  """
  pairs = np.concatenate([samples, neighbours], axis=2)
  zoom = max(1, round(48 / samples.shape[1]))
  return grid(pairs, min(columns, len(pairs)), zoom)

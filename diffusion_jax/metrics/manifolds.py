"""Precision and recall, density and coverage of samples, by nearest neighbours.

The manifold of a set is the union of balls around its points, up to their k-th
neighbours. The standard errors are over the counted images; the other set is
fixed.
"""

from typing import NamedTuple

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.estimates import Estimate, check_pair, mean
from diffusion_jax.metrics.metric import SampleMetric, Score, sizes, take_features
from diffusion_jax.metrics.neighbours import each_block, inside, inside_or_on, radii


class PrecisionRecall(NamedTuple):
  """The precision and the recall of samples, fractions."""

  precision: Estimate
  recall: Estimate


class DensityCoverage(NamedTuple):
  """The density (it may exceed 1) and the coverage of samples."""

  density: Estimate
  coverage: Estimate


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
  """Returns the fractions of samples and of reference in the other's manifold.

  Kynkaanniemi et al. 2019, Eq. 1-2, of features [N, D] and [M, D]: precision is
  the fraction of samples within the k-th neighbour of a reference image, and
  recall the fraction of reference images within the k-th neighbour of a sample.
  Both depend on the size of the other set, so that figures compare only for
  equal N and M. Raises ValueError.
  """
  check_pair(samples, reference)
  return PrecisionRecall(
    precision=mean(_in_manifold(samples, reference, k)),
    recall=mean(_in_manifold(reference, samples, k)),
  )


def density_coverage(samples: np.ndarray, reference: np.ndarray, k: int = 5) -> DensityCoverage:
  """Returns the density and the coverage of samples [N, D], Naeem et al. 2020.

  Density is the number of balls of the reference [M, D] that contain a sample,
  over k; coverage the fraction of balls that contain one. If both sets have the
  same law, the expectations are 1, and 1 - prod_{i=1..k} (M - i) / (N + M - i).
  Points on a sphere are outside. Raises ValueError.
  """
  check_pair(samples, reference)
  radius = radii(reference, k)
  balls = each_block(samples, reference, lambda d: inside(d, radius).sum(axis=1), radius)
  closest = each_block(reference, samples, lambda d: d.min(axis=1), radius[:, None])
  return DensityCoverage(density=mean(balls / k), coverage=mean(inside(closest, radius)))


@declares(
  what='precision and recall, k = 3 (Kynkäänniemi et al. 2019)',
  needs='N equal to the size of the reference',
)
@lattices.named
def pr(k: int = 3, features: tuple[str, ...] = ()) -> SampleMetric:
  """Precision and recall by k-th neighbours (Kynkaanniemi et al. 2019)."""
  check_at_least(1, k=k)

  def compute(samples, reference):
    x, y = take_features('pr', samples, reference, (k + 1, k + 1))
    return _scores(precision_recall(x, y, k), k, x, y)

  scores = {'precision': True, 'recall': True}
  return SampleMetric(scores, ('features',), compute, features)


@declares(
  what='density and coverage, k = 5 (Naeem et al. 2020)',
  needs='N equal to the size of the reference',
)
@lattices.named
def dc(k: int = 5, features: tuple[str, ...] = ()) -> SampleMetric:
  """Density and coverage by k-th neighbours (Naeem et al. 2020)."""
  check_at_least(1, k=k)

  def compute(samples, reference):
    x, y = take_features('dc', samples, reference, (1, k + 1))
    return _scores(density_coverage(x, y, k), k, x, y)

  scores = {'density': True, 'coverage': True}
  return SampleMetric(scores, ('features',), compute, features)


def _scores(pair, k, x, y):
  note = f'k = {k}, {sizes(x, y)}'
  return [Score(name, e, note) for name, e in pair._asdict().items()]


def _in_manifold(features, centres, k):
  radius = radii(centres, k)
  return each_block(features, centres, lambda d: inside_or_on(d, radius).any(axis=1), radius)

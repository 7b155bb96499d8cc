"""The Frechet distance between two sets of images, in any feature space.

With Inception's features it is FID (Heusel et al. 2017), with DINOv2's features
FD-DINOv2 (Stein et al. 2023). The caller chooses the features and should report
them with every figure. The distance is biased: it decreases with the number of
images, so that only sets of the same size can be compared.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import (
  Estimate,
  bootstrap,
  check_features,
  check_finite,
  check_pair,
)
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score, check_counts, take

# The names in files of the mean and covariance of features; see `given`.
STATISTICS = {'features': ('mu', 'sigma'), 'spatial': ('mu_s', 'sigma_s')}
_ROWS = 4096  # rows of features that are converted to float64 at a time
_ROUNDING = 1e-5  # rounding of float32 covariances, relative to the largest number


class Statistics(NamedTuple):
  """The mean [D] and covariance [D, D], over N - 1, float64."""

  mean: np.ndarray
  covariance: np.ndarray


class Moments(NamedTuple):
  """The moments of a set of images: count, mean [D] and scatter [D, D]."""

  count: int = 0
  mean: np.ndarray = np.zeros(())
  scatter: np.ndarray = np.zeros(())


def add(moments: Moments, features: np.ndarray) -> Moments:
  """Returns the moments with features [n, D] added (Chan et al. 1983)."""
  check_features('a batch', features)
  count, mean, scatter = moments
  for start in range(0, len(features), _ROWS):
    rows = np.asarray(features[start : start + _ROWS], np.float64)
    total = count + len(rows)
    centred = rows - rows.mean(axis=0)
    shift = rows.mean(axis=0) - mean
    scatter = scatter + centred.T @ centred
    scatter += np.outer(shift, shift) * (count * len(rows) / total)
    mean = mean + shift * (len(rows) / total)
    count = total
  return Moments(count, mean, scatter)


def statistics(features: np.ndarray | Moments) -> Statistics:
  """Returns the statistics of features [N, D], or of the moments from `add`.

  Raises ValueError for N < 2.
  """
  if isinstance(features, np.ndarray):
    features = add(Moments(), features)
  if features.count < 2:
    raise ValueError(f'a covariance needs 2 images, not {features.count}')
  return Statistics(features.mean, features.scatter / (features.count - 1))


def given(arrays: Arrays, kind: str = 'features') -> Statistics | None:
  """Returns the statistics among the arrays of a set; None without them.

  kind: a key of STATISTICS. Raises ValueError unless they are real, [D] and
  [D, D], finite, and the covariance symmetric without negative eigenvalues.
  """
  names = STATISTICS[kind]
  if not all(name in arrays for name in names):
    return None
  for name in names:
    if (kind_of := np.asarray(arrays[name]).dtype).kind not in 'iuf':
      raise ValueError(f'{name} has numbers of the type {kind_of}, not real ones')
  mean, covariance = (np.asarray(arrays[name], np.float64) for name in names)
  if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
    raise ValueError(
      f'{names[0]} is {list(mean.shape)} and {names[1]} '
      f'{list(covariance.shape)}, not [D] and [D, D]'
    )
  check_finite(names[0], mean[None])
  check_finite(names[1], covariance)
  asymmetry, scale = np.abs(covariance - covariance.T).max(), np.abs(covariance).max()
  if asymmetry > _ROUNDING * scale:
    raise ValueError(
      f'{names[1]} is not symmetric, as covariances are: it differs from its '
      f'transpose by up to {asymmetry:.3g}, and its largest number is {scale:.3g}'
    )
  values = np.linalg.eigvalsh(covariance)
  if values[0] < -_ROUNDING * np.linalg.norm(covariance):  # Rounding may leave negative ones.
    raise ValueError(
      f'{names[1]} is not a covariance: its eigenvalues are {values[0]:.3g} to {values[-1]:.3g}, '
      'and none of a covariance is negative'
    )
  return Statistics(mean, covariance)


def as_arrays(known: Mapping[str, Statistics]) -> dict[str, np.ndarray]:
  """Returns {'mu': ..., 'sigma': ...} of statistics by a key of STATISTICS."""
  return {
    name: array
    for kind, pair in known.items()
    for name, array in zip(STATISTICS[kind], pair, strict=True)
  }


def frechet_distance(p: Statistics, q: Statistics) -> float:
  """Returns |mean_p - mean_q|^2 + tr(C_p + C_q - 2 (C_p C_q)^(1/2)).

  The squared Wasserstein-2 distance of two Gaussians (Dowson & Landau 1982).
  Covariances may be singular: the trace of the root is the sum of the singular
  values of C_p^(1/2) C_q^(1/2), which has no root of a rounded zero.
  """
  return _distance(p, q, _root(q.covariance))


def frechet_distance_and_error(
  samples: np.ndarray, reference: Statistics, num_draws: int = 10, seed: int = 0
) -> Estimate:
  """Returns the distance of samples [N, D], and its error by the bootstrap.

  The error is due to the samples; the reference is fixed. Each of the num_draws
  costs one distance.
  """
  root = _root(reference.covariance)

  def distance(features):
    return _distance(statistics(features), reference, root)

  return bootstrap(distance, samples, num_draws, seed)


@declares(data='pictures', instead='take fd, c2st or others of numbers')
def fid(num_draws: int = 10) -> SampleMetric:
  """Frechet distance of Inception's features (Heusel et al. 2017).

  num_draws: how many draws of the bootstrap give the error; each costs one
  distance, and 0 leaves the error out.
  """
  return _metric('fid', 'features', num_draws, ('inception',))


@declares(data='pictures', instead='take fd, c2st or others of numbers')
def sfid(num_draws: int = 10) -> SampleMetric:
  """Frechet distance of Inception's spatial features (Nash et al. 2021).

  num_draws: how many draws of the bootstrap give the error.
  """
  return _metric('sfid', 'spatial', num_draws, ('inception',))


@declares(
  what=(
    'the Fréchet distance of two Gaussians with the mean and covariance of the features '
    '(Heusel et al. 2017); `fid` is this in Inception features'
  ),
  needs='N well above the number of features',
)
def fd(num_draws: int = 10, features: tuple[str, ...] = ()) -> SampleMetric:
  """Frechet distance of the features.

  num_draws: how many draws of the bootstrap give the error.
  """
  return _metric('fd', 'features', num_draws, features)


@declares(
  what='the same of spatial features (Nash et al. 2021); `sfid` is this in Inception features',
  needs='`inception`',
)
def sfd(num_draws: int = 10, features: tuple[str, ...] = ()) -> SampleMetric:
  """Frechet distance of spatial features.

  num_draws: how many draws of the bootstrap give the error.
  """
  return _metric('sfd', 'spatial', num_draws, features)


def _metric(name, kind, num_draws, features):
  check_at_least(0, num_draws=num_draws)

  # A file may have statistics of more images than it has features of.
  def compute(samples, reference):
    known, y = given(samples, kind), given(reference, kind)
    if known is None or kind in samples:
      check_counts(name, samples=(len(take(name, samples, kind)), 2))
    if y is None:
      own = take(name, reference, kind, 'reference')
      check_counts(name, reference=(len(own), 2))
      y = statistics(own)
    if known is not None and kind not in samples:
      return [Score(name, Estimate(frechet_distance(known, y)))]
    x = samples[kind]
    note = f'{len(x):,} samples'
    if len(x) <= x.shape[1]:
      note += (
        f', no more than the {x.shape[1]:,} features: the covariance is '
        'singular, and the distance far too large'
      )
    return [Score(name, frechet_distance_and_error(x, y, num_draws), note)]

  return SampleMetric({name: False}, (kind,), compute, features, by_statistics=True)


def _distance(p, q, root_q):
  check_pair(p.mean[None], q.mean[None])
  trace = np.linalg.norm(_root(p.covariance) @ root_q, 'nuc')
  shift = np.sum((p.mean - q.mean) ** 2)
  return float(shift + np.trace(p.covariance) + np.trace(q.covariance) - 2.0 * trace)


def _root(matrix):
  # Rounded zeros would have roots of 1e-8, which add up.
  import scipy.linalg  # not at every start of the program

  values, vectors = scipy.linalg.eigh(matrix)
  rounding = np.finfo(np.float64).eps * len(values) * values[-1]
  kept = np.where(values > rounding, values, 0.0)
  return (vectors * np.sqrt(kept)) @ vectors.T

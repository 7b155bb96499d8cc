"""Real numbers as features: flat, and standardised by the reference.

Metrics of values read the array `values` of both sets, [N, ...] in the units of
the data, channels last.
"""

from typing import NamedTuple

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.metrics.estimates import Missing, bootstrap, check_pair
from diffusion_jax.metrics.metric import (
  Arrays,
  SampleMetric,
  Score,
  sizes,
  take,
)


class Standard(NamedTuple):
  """The mean and the standard deviation of each channel, [C] or []."""

  mean: np.ndarray
  std: np.ndarray

  def features(self, values: np.ndarray) -> np.ndarray:
    """Returns (values - mean) / std of values [N, ..., C], as [N, D].

    Raises ValueError for values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
      bad = np.mean(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
      raise ValueError(f'{bad:.0%} of the values [N, ...] are not finite')
    return ((values - self.mean) / self.std).reshape(len(values), -1)


def standard_of(values: np.ndarray) -> Standard:
  """Measures values [N, ..., C]; the std of a constant channel is 1."""
  values = np.asarray(values, np.float64)
  axes = tuple(range(max(1, values.ndim - 1)))
  std = values.std(axis=axes)
  return Standard(values.mean(axis=axes), np.where(std > 0.0, std, 1.0))


def take_values(
  metric: str, samples: Arrays, reference: Arrays, least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the values of both sets as features [N, D], by the reference's std.

  Raises `Missing` for fewer than `least` examples of a set, and ValueError for
  other shapes.
  """
  x = np.asarray(take(metric, samples, 'values'))
  y = np.asarray(take(metric, reference, 'values', 'reference'))
  if x.shape[1:] != y.shape[1:]:
    raise ValueError(
      f'{metric}: values {list(x.shape[1:])} of the samples cannot be compared '
      f'with {list(y.shape[1:])} of the reference'
    )
  if min(len(x), len(y)) < least:
    raise Missing(
      f'{metric} needs {least} examples of both sets: there are {len(x):,} of '
      f'the samples and {len(y):,} of the reference'
    )
  standard = standard_of(y)
  return standard.features(x), standard.features(y)


class MomentErrors(NamedTuple):
  """The largest errors over all numbers, 0 at best.

  mean: |mean - m| / s; std: |std / s - 1|; correlation: of two numbers. m and s
  are the reference's mean and standard deviation.
  """

  mean: float
  std: float
  correlation: float


def moment_errors(samples: np.ndarray, reference: np.ndarray) -> MomentErrors:
  """Compares the moments of samples [N, D] with the moments of [M, D].

  A number that is constant in the reference has s = 1. Correlations with a
  constant number are 0. Raises ValueError.
  """
  check_pair(samples, reference)
  mean, std = standard_of(reference)
  x, y = (samples - mean) / std, (reference - mean) / std
  varies = y.std(axis=0) > 0.0
  return MomentErrors(
    float(np.abs(x.mean(axis=0)).max()),
    float(np.abs(x.std(axis=0) - varies).max()),
    float(np.abs(_correlation(x) - _correlation(y)).max()),
  )


def moments(num_draws: int = 10) -> SampleMetric:
  """Largest errors of mean, standard deviation and correlation.

  See `MomentErrors`. num_draws: of the bootstrap, for the errors.
  """
  check_at_least(0, num_draws=num_draws)

  def compute(samples, reference):
    x, y = take_values('moments', samples, reference)
    note = f'largest of {x.shape[1]:,} numbers, {sizes(x, y)}'
    scores = []
    for name in MomentErrors._fields:

      def error(rows, name=name):
        return getattr(moment_errors(rows, y), name)

      estimate = bootstrap(error, x, num_draws)
      scores.append(Score(f'moments_{name}', estimate, note))
    return scores

  names = (f'moments_{name}' for name in MomentErrors._fields)
  return SampleMetric(dict.fromkeys(names, False), ('values',), compute)


def _correlation(x):
  # Returns [D, D] with 0 for constants, also on the diagonal.
  centred = x - x.mean(axis=0)
  std = centred.std(axis=0)
  scaled = centred / np.where(std > 0.0, std, 1.0)
  return scaled.T @ scaled / len(x)

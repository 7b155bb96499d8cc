"""Real numbers as features: flat, and standardised by the reference.

Metrics of values read the array `values` of both sets, [N, ...] in the units of
the data, channels last.
"""

from typing import NamedTuple

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.data.sources import some_of
from diffusion_jax.data.spec import mean_and_std, mean_and_std_of_known
from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.estimates import Estimate, Missing, bootstrap, check_finite, check_pair
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score, same_precision, sizes, take


class Standard(NamedTuple):
  """The mean and the standard deviation of each channel, [C] or []."""

  mean: np.ndarray
  std: np.ndarray

  def features(self, values: np.ndarray) -> np.ndarray:
    """Returns (values - mean) / std of values [N, ..., C], as [N, D].

    Raises ValueError for values that are not finite.
    """
    values = np.asarray(values, np.float64)
    check_finite('values', values)
    return ((values - self.mean) / self.std).reshape(len(values), -1)


def standard_of(values: np.ndarray, ddof: int = 0) -> Standard:
  """Measures values [N, ..., C]; the std of a constant channel is 1.

  See `mean_and_std`, also for ddof.
  """
  mean, std = mean_and_std(values, ddof)
  return Standard(mean, np.where(std > 0.0, std, 1.0))


def take_values(
  metric: str, samples: Arrays, reference: Arrays, least: int = 2, lengths: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the values of both sets as features [N, D], by the reference's std.

  lengths: they may be NaN where they pad an example. Raises `Missing` for fewer than `least`
  examples of a set, and ValueError for other shapes.
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
  x, y = same_precision(x, y)
  if not lengths:
    standard = standard_of(y)
    return standard.features(x), standard.features(y)
  check_padding('samples', x)
  check_finite('the reference', np.where(np.isnan(y), 0.0, y))  # It may have gaps.
  mean, std = mean_and_std_of_known(y)
  std = np.where(std > 0.0, std, 1.0)
  x, y = (((a - mean) / std).reshape(len(a), -1) for a in (x, y))
  return x, y


def check_padding(name: str, x: np.ndarray) -> None:
  """Raises ValueError for NaN in x [N, T, ...] but at the end of an example, and for infinities."""
  if x.ndim < 3:  # A vector has no end.
    return check_finite(name, x)
  empty = np.all(np.isnan(x).reshape(*x.shape[:2], -1), axis=2)
  ends = np.cumsum(~empty[:, ::-1], axis=1)[:, ::-1] == 0
  ends[:, 0] = False
  check_finite(name, np.where(ends.reshape(*ends.shape, *[1] * (x.ndim - 2)), 0.0, x))


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
  constant number are 0. NaN pads an example with a length: a moment is of the examples that
  have its numbers, and left out if fewer than two of a set have. Raises ValueError.
  """
  check_pair(*(np.nan_to_num(a, posinf=np.inf, neginf=-np.inf) for a in (samples, reference)))
  mean, std = _of_each_number(reference)
  scale = np.where(std > 0.0, std, 1.0)
  x, y = (samples - mean) / scale, (reference - mean) / scale
  centre, spread = _of_each_number(x)
  return MomentErrors(
    float(np.nanmax(np.abs(centre))),
    float(np.nanmax(np.abs(spread - (std > 0.0)))),
    float(np.nanmax(np.abs(_correlation(x) - _correlation(y)))),
  )


def _of_each_number(x):
  # Returns (mean, std) [D] of what is not NaN in x [N, D]; NaN of fewer than two.
  some = ~np.isnan(x)
  if some.all():
    return mean_and_std(x)
  return mean_and_std_of_known(x)


@declares(
  what=(
    'the largest errors over all numbers: of the mean in deviations, of the deviation as a '
    'ratio, of the correlation'
  ),
  lengths=True,
)
def moments(num_draws: int = 10) -> SampleMetric:
  """Largest errors of mean, standard deviation and correlation.

  See `MomentErrors`. num_draws: of the bootstrap, for the errors.
  """
  check_at_least(0, num_draws=num_draws)

  def compute(samples, reference):
    x, y = take_values('moments', samples, reference, lengths=True)
    note = f'largest of {x.shape[1]:,} numbers, {sizes(x, y)}'
    scores = []
    for i, name in enumerate(MomentErrors._fields):
      estimate = bootstrap(lambda rows, i=i: moment_errors(rows, y)[i], x, num_draws)
      scores.append(Score(f'moments_{name}', estimate, note))
    return scores

  names = (f'moments_{name}' for name in MomentErrors._fields)
  return SampleMetric(dict.fromkeys(names, False), ('values',), compute)


def _correlation(x):
  # Returns [D, D] with 0 for constants, also on the diagonal, and NaN for numbers that fewer
  # than two examples have.
  mean, std = _of_each_number(x)
  scaled = np.nan_to_num((x - mean) / np.where(std > 0.0, std, np.inf))
  some = (~np.isnan(x)).astype(np.float64)
  count = some.T @ some
  return np.where(count > 1.0, scaled.T @ scaled / np.maximum(count, 1.0), np.nan)


def directions(count: int, dimension: int, seed: int = 0) -> np.ndarray:
  """Draws random unit vectors, [count, dimension]."""
  vectors = np.random.default_rng(seed).normal(size=(count, dimension))
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def wasserstein_2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the squared Wasserstein-2 distances of columns, [P].

  x: [N, P], y: [M, P], one-dimensional samples in columns. The distance is the
  integral of the squared difference of their quantile functions, exactly.
  """
  n, m = len(x), len(y)
  edges = np.union1d(np.arange(1, n + 1) / n, np.arange(1, m + 1) / m)
  widths = np.diff(edges, prepend=0.0)
  centres = edges - 0.5 * widths
  x, y = np.sort(x, axis=0), np.sort(y, axis=0)
  apart = x[(centres * n).astype(int)] - y[(centres * m).astype(int)]
  return widths @ apart**2


def sliced_w2(
  samples: np.ndarray, reference: np.ndarray, num_directions: int = 100, seed: int = 0
) -> float:
  """Computes the sliced W2 of samples [N, D] and reference [M, D].

  The root of the mean over random directions of the squared W2 of the
  projections (Bonneel et al. 2015). Raises ValueError.
  """
  check_pair(samples, reference)
  axes = directions(num_directions, samples.shape[1], seed).T
  return float(np.sqrt(wasserstein_2(samples @ axes, reference @ axes).mean()))


@declares(what='the Wasserstein-2 distance along 100 random directions')
@lattices.named
def sliced(num_directions: int = 100, num_draws: int = 10, seed: int = 0) -> SampleMetric:
  """Sliced Wasserstein-2 distance, in the reference's standard deviations.

  See `sliced_w2`. num_draws: how many draws of the bootstrap give the error.
  """
  check_at_least(1, num_directions=num_directions)
  check_at_least(0, num_draws=num_draws)

  def compute(samples, reference):
    x, y = take_values('sliced_w2', samples, reference)

    def distance(rows):
      return sliced_w2(rows, y, num_directions, seed)

    note = f'{num_directions} directions, {sizes(x, y)}'
    return [Score('sliced_w2', bootstrap(distance, x, num_draws), note)]

  return SampleMetric({'sliced_w2': False}, ('values',), compute)


def classifier_accuracy(
  samples: np.ndarray, reference: np.ndarray, num_folds: int = 5, seed: int = 1
) -> Estimate:
  """Returns C2ST of samples [N, D] and reference [M, D], as sbibm defines it.

  The mean accuracy of scikit-learn's MLPClassifier (two hidden layers of 10 D
  units, Adam) over num_folds shuffled folds, 0.5 at best for N = M, 1 at worst;
  the error is the deviation over folds (Lopez-Paz & Oquab 2017; Lueckmann et
  al. 2021). Both sets are standardised by the reference; N and M should be
  equal. Raises ValueError.
  """
  from sklearn.model_selection import KFold, cross_val_score
  from sklearn.neural_network import MLPClassifier

  check_pair(samples, reference)
  # sbibm's deviations are PyTorch's, over M - 1.
  x = standard_of(reference, ddof=1).features(np.concatenate([reference, samples]))
  labels = np.repeat([0, 1], [len(reference), len(samples)])
  width = 10 * x.shape[1]
  classifier = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
  folds = KFold(num_folds, shuffle=True, random_state=seed)
  scores = cross_val_score(classifier, x, labels, cv=folds)
  return Estimate(float(scores.mean()), float(scores.std()))


@declares(
  what=(
    "the accuracy of scikit-learn's perceptron that tells samples from reference, as sbibm "
    'defines it (Lueckmann et al. 2021): 0.5 at best; the error is the deviation over 5 folds'
  ),
)
@lattices.named
def c2st(num_folds: int = 5, seed: int = 1, max_samples: int = 10_000) -> SampleMetric:
  """Accuracy of a classifier of samples and reference, of equal numbers.

  See `classifier_accuracy`. max_samples: of each set, random ones.
  """
  check_at_least(2, num_folds=num_folds)

  def compute(samples, reference):
    x, y = take_values('c2st', samples, reference, num_folds)
    count = min(len(x), len(y), max_samples)
    x, y = (z[some_of(z, count)] for z in (x, y))
    note = f'0.5 at best; deviation over {num_folds} folds, {sizes(x, y)}'
    return [Score('c2st', classifier_accuracy(x, y, num_folds, seed), note)]

  return SampleMetric({'c2st': False}, ('values',), compute)

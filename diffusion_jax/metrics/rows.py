"""Rows of a table against real rows: columns, pairs, classifiers, copies.

Rows are [N, C], a number for each cell, NaN where it is missing; sizes [C] are the numbers of
categories of the columns, 0 of numbers. As many real rows of the other split, and rows of three
simple models (`simple_rows`), are scored too.
"""

import itertools
from collections.abc import Callable

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.data.sources import some_of
from diffusion_jax.declared import declares
from diffusion_jax.metrics import simple_rows
from diffusion_jax.metrics.estimates import Estimate, Missing, bootstrap
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score, take
from diffusion_jax.metrics.simple_rows import shares

LEVELS = 30  # of alpha and beta
BINS = 10  # of a number, in a pair with categories
NEEDS = 'values', 'others', 'sizes'
SETS = 'real', 'independent', 'smote', 'mixture'
MOST_ROWS = 10_000  # that a classifier is trained on
MOST_NEAR = 5000  # whose nearest rows are looked for


def shape_errors(samples: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the error of each column's distribution, [C], in [0, 1], of the cells that are there.

  Of a number 1 - `KSComplement` of SDMetrics, the Kolmogorov-Smirnov distance; of categories
  1 - `TVComplement`, the total variation. NaN where a set has no cell.
  """
  errors = np.full(len(sizes), np.nan)
  for i, size in enumerate(sizes.tolist()):
    x, y = (rows[~np.isnan(rows[:, i]), i] for rows in (samples, reference))
    if not (len(x) and len(y)):
      continue
    if size:
      errors[i] = 0.5 * np.abs(shares(x, size) - shares(y, size)).sum()
    else:
      at, (x, y) = np.unique(np.concatenate([x, y])), map(np.sort, (x, y))
      below = [np.searchsorted(z, at, side='right') / len(z) for z in (x, y)]
      errors[i] = np.abs(below[0] - below[1]).max()
  return errors


def trend_errors(samples: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the error of each pair of columns, [C, C], in [0, 1], of rows that have both cells.

  Of two numbers 1 - `CorrelationSimilarity` of SDMetrics, half the difference of Pearson's
  correlations; otherwise 1 - `ContingencySimilarity`, the total variation of the pair, a
  number in BINS bins of equal widths over the reference. NaN on the diagonal, and where a
  correlation is not defined.
  """
  count, errors = len(sizes), np.full((len(sizes), len(sizes)), np.nan)
  binned = [_binned(rows, reference, sizes) for rows in (samples, reference)]
  classes = np.where(sizes > 0, sizes, BINS)
  for i, j in itertools.combinations(range(count), 2):
    if not (sizes[i] or sizes[j]):
      r = [_correlation(rows[:, i], rows[:, j]) for rows in (samples, reference)]
      error = 0.5 * abs(r[0] - r[1])
    else:
      pairs = [_pair_shares(x[:, i], x[:, j], int(classes[i]), int(classes[j])) for x in binned]
      error = 0.5 * np.abs(pairs[0] - pairs[1]).sum()
    errors[i, j] = errors[j, i] = error
  return errors


def _binned(rows, reference, sizes):
  # Returns rows with the bins of numbers in their places, -1 where a cell is missing.
  codes = np.where(np.isnan(rows), -1, rows)
  for i in np.flatnonzero(sizes == 0):
    known = reference[~np.isnan(reference[:, i]), i]
    edges = np.histogram_bin_edges(known, BINS)[1:-1] if len(known) else np.zeros(BINS - 1)
    codes[:, i] = np.where(np.isnan(rows[:, i]), -1, np.digitize(rows[:, i], edges))
  return codes.astype(np.int64)


def _pair_shares(x, y, num_x, num_y):
  both = (x >= 0) & (y >= 0)
  counts = np.bincount(x[both] * num_y + y[both], minlength=num_x * num_y)
  return counts / max(1, both.sum())


def _correlation(x, y):
  both = ~(np.isnan(x) | np.isnan(y))
  x, y = x[both], y[both]
  if len(x) < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
    return np.nan
  x, y = x - x.mean(), y - y.mean()
  return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def detection_auc(
  samples: np.ndarray, reference: np.ndarray, sizes: np.ndarray, num_folds: int = 5, seed: int = 0
) -> Estimate:
  """Returns the AUC of a classifier that tells samples from reference: 0.5 at best, 1 at worst.

  Scikit-learn's gradient boosting of histograms, on num_folds folds; the error is the
  deviation over folds. N = M of both sets. Samples without a missing cell get the gaps
  of random rows of the reference.
  """
  from sklearn.metrics import roc_auc_score
  from sklearn.model_selection import StratifiedKFold

  rows = np.concatenate([reference, _with_gaps(samples, reference, seed)])
  labels = np.repeat([0, 1], [len(reference), len(samples)])
  folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
  scores, every = [], np.arange(len(sizes))
  with _one_thread():
    for train, test in folds.split(rows, labels):
      model, known = _boosted(rows[train], labels[train], sizes, every, seed)
      scores.append(roc_auc_score(labels[test], model.decision_function(rows[test][:, known])))
  return Estimate(float(np.mean(scores)), float(np.std(scores, ddof=1)))


def _with_gaps(samples, reference, seed):
  # Samples without a missing cell get the gaps of random real rows, or these would tell.
  if np.isnan(samples).any() or not np.isnan(reference).any():
    return samples
  some = np.random.default_rng(seed).integers(0, len(reference), len(samples))
  return np.where(np.isnan(reference[some]), np.nan, samples)


def _one_thread():
  from threadpoolctl import threadpool_limits

  return threadpool_limits(1, user_api='openmp')  # More wait for each other on a busy machine.


def _boosted(rows, y, sizes, columns, seed=0, is_classifier=True):
  # Returns scikit-learn's gradient boosting of y [N] by columns of rows, and those that it reads:
  # it needs a cell that is known, and two rows of a class.
  from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

  if is_classifier:
    _, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    several = counts[index] > 1 if (counts > 1).sum() > 1 else np.full(len(y), True)
    rows, y = rows[several], y[several]
  known = columns[np.isfinite(rows[:, columns]).any(axis=0)]
  # Categories above its 255 bins are read as numbers.
  own = (sizes[known] > 0) & (sizes[known] <= 255)
  kind = HistGradientBoostingClassifier if is_classifier else HistGradientBoostingRegressor
  return kind(categorical_features=own, random_state=seed).fit(rows[:, known], y), known


def utility(
  train: np.ndarray, test: np.ndarray, sizes: np.ndarray, column: int, seed: int = 0
) -> float:
  """Returns how well a column of real test rows is predicted by a model trained on `train`.

  The AUC of gradient boosting for categories, one against the rest, in the mean over those
  that test rows have; R^2 for numbers. 0.5 or 0 where train has one value of the column.
  """
  from sklearn.metrics import r2_score, roc_auc_score

  others = np.delete(np.arange(len(sizes)), column)
  train, test = (rows[~np.isnan(rows[:, column])] for rows in (train, test))
  y, truth, is_class = train[:, column], test[:, column], bool(sizes[column])
  if len(np.unique(y)) < 2 or not np.isfinite(train[:, others]).any():
    return 0.5 if is_class else 0.0
  with _one_thread():
    model, known = _boosted(train, y, sizes, others, seed, is_class)
    if not is_class:
      return float(r2_score(truth, model.predict(test[:, known])))
    p = np.zeros((len(test), sizes[column]))
    p[:, model.classes_.astype(int)] = model.predict_proba(test[:, known])
  found = [k for k in np.unique(truth).astype(int) if not np.all(truth == k)]
  return float(np.mean([roc_auc_score(truth == k, p[:, k]) for k in found]))


def closest(rows: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the distance of rows [N, C] to the closest row of the reference, [N].

  Distances are those of `simple_rows.features`. 0 is a copy.
  """
  from sklearn.neighbors import NearestNeighbors

  features = [simple_rows.features(x, reference, sizes) for x in (rows, reference)]
  neighbours = NearestNeighbors(n_neighbors=1, algorithm='brute').fit(features[1])
  distance, index = neighbours.kneighbors(features[0])
  # Rounding makes a copy 1e-8 from itself.
  is_equal = (features[0] == features[1][index[:, 0]]).all(axis=1)
  return np.where(is_equal, 0.0, distance[:, 0])


def precision_and_recall(
  samples: np.ndarray, reference: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
  """Returns alpha-precision and beta-recall of as many rows as the reference, 1 at best.

  Alaa et al. 2022, as TabSyn measures them (`naive` in synthcity): numbers on [0, 1] over the
  reference, categories one-hot, 1 - sum |alpha - P_alpha| / sum alpha over LEVELS. P_alpha is
  the share of samples in the ball around the reference's mean that has the share alpha of it.
  R_beta is the share of reference rows whose nearest sample is as near as their nearest other row,
  and is among the share beta of these samples that are nearest to the samples' mean. A missing
  category has no 1, a missing number is the mean.
  """
  from sklearn.neighbors import NearestNeighbors

  x, y = (_unit_features(rows, reference, sizes) for rows in (samples, reference))
  levels = np.linspace(0.0, 1.0, LEVELS)
  from_real = [np.linalg.norm(z - y.mean(axis=0), axis=1) for z in (x, y)]
  radii = np.quantile(from_real[1], levels)
  precision = (from_real[0][None] <= radii[:, None]).mean(axis=1)
  search = NearestNeighbors(n_neighbors=1, algorithm='brute')
  to_real = search.fit(y).kneighbors()[0][:, 0]  # of each row, itself left out
  to_sample, index = (a[:, 0] for a in search.fit(x).kneighbors(y))
  from_samples = np.linalg.norm(x[index] - x.mean(axis=0), axis=1)
  inside = from_samples[None] <= np.quantile(from_samples, levels)[:, None]
  recall = (inside & (to_sample <= to_real)[None]).mean(axis=1)
  found = [float(1 - np.abs(levels - z).sum() / levels.sum()) for z in (precision, recall)]
  return found[0], found[1]


def _unit_features(rows, reference, sizes):
  # Returns numbers on [0, 1] over the reference, and categories one-hot.
  parts = []
  for i, size in enumerate(sizes.tolist()):
    cells, missing = rows[:, i], np.isnan(rows[:, i])
    if size:
      parts.append(np.eye(size + 1)[np.where(missing, size, cells).astype(int)][:, :size])
      continue
    known = reference[~np.isnan(reference[:, i]), i]
    if len(known):
      low, width = known.min(), np.ptp(known) or 1.0
      parts.append((np.where(missing, known.mean(), cells)[:, None] - low) / width)
  return np.concatenate(parts, axis=1)


def coverage(samples: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> float:
  """Returns the share of the reference's categories that samples have, in the mean over columns.

  SDMetrics' `CategoryCoverage`; 1 without a column of categories.
  """
  found = []
  for i in np.flatnonzero(sizes > 0):
    seen, there = (
      shares(rows[~np.isnan(rows[:, i]), i], sizes[i]) > 0 for rows in (samples, reference)
    )
    if there.any():
      found.append((seen & there).sum() / there.sum())
  return float(np.mean(found)) if found else 1.0


# -- as metrics --------------------------------------------------------------------


def _cells(name, arrays, sizes, key='values', what='samples'):
  # Returns rows, float64 [N, C], without the last columns, which say what is missing: NaN does.
  return np.asarray(take(name, arrays, key, what), np.float64)[:, : len(sizes)]


def _sets(name, samples, reference, beside):
  # Returns ({'': samples, and of SETS}, reference, rows of the other split, sizes). The sets have
  # equal numbers of rows where the data have another split.
  sizes, others = reference['sizes'], reference.get('others')
  rows = _cells(name, samples, sizes)
  real = _cells(name, reference, sizes, what='reference')
  if min(len(rows), len(real)) < 2:
    raise Missing(f'{name} needs 2 rows or more of the samples and of the reference')
  count = len(rows)
  if beside and others is not None:
    others = _cells(name, reference, sizes, 'others', 'reference')
    count = min(count, len(others))
    others = others[some_of(others, count)]
  elif others is None:
    others = real[:0]
  sets = {'': rows[:count]}
  if beside:
    sets |= {'real': others} if len(others) else {}
    sets |= simple_rows.drawn(real, sizes, count)
  return sets, real, others, sizes


Compare = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Estimate]


def _metric(
  name: str, higher: bool, compare: Compare, beside: bool, note: str, most: int = 0
) -> SampleMetric:
  # compare: (rows, reference, rows of the other split, sizes) -> estimate. most: how many rows it
  # compares with as many of the reference; 0: all with all.
  def compute(samples: Arrays, reference: Arrays) -> list[Score]:
    sets, real, others, sizes = _sets(name, samples, reference, beside)
    count = len(sets[''])
    words = f'{count:,} rows against {len(real):,}'
    words = f'{min(count, len(real), most):,} rows against as many' if most else words
    return [
      Score(name + f'_{of}' * bool(of), compare(x, real, others, sizes), f'{note}, {words}')
      for of, x in sets.items()
    ]

  names = [name, *(f'{name}_{of}' for of in SETS * beside)]
  return SampleMetric(dict.fromkeys(names, higher), NEEDS, compute)


def _mean_of(errors, num_draws):
  # Compares by the mean of errors(rows, reference, sizes), with its bootstrap error.
  check_at_least(0, num_draws=num_draws)

  def compare(rows, real, others, sizes):
    return bootstrap(lambda x: float(np.nanmean(errors(x, real, sizes))), rows, num_draws)

  return compare


@declares(
  what='the mean error of columns of a table, 1 − `KSComplement` of numbers and 1 − '
  '`TVComplement` of categories (SDMetrics)'
)
def shape(num_draws: int = 5, beside: bool = True) -> SampleMetric:
  """Mean of `shape_errors`. beside: also of real rows and simple models; num_draws: bootstrap."""
  compare = _mean_of(shape_errors, num_draws)
  return _metric('shape_error', False, compare, beside, 'mean over columns')


@declares(
  what='the mean error of pairs of columns, 1 − `CorrelationSimilarity` of two numbers and 1 − '
  '`ContingencySimilarity` of others (SDMetrics)'
)
def trend(num_draws: int = 5, beside: bool = True) -> SampleMetric:
  """Mean of `trend_errors`; see `shape`."""

  def errors(rows, real, sizes):
    if len(sizes) < 2:
      raise Missing('trend needs two columns or more')
    return trend_errors(rows, real, sizes)

  compare = _mean_of(errors, num_draws)
  return _metric('trend_error', False, compare, beside, 'mean over pairs')


@declares(
  what="the AUC of scikit-learn's gradient boosting that tells rows from real ones: 0.5 at best; "
  'the error is the deviation over 5 folds'
)
def detection(num_folds: int = 5, seed: int = 0, beside: bool = True) -> SampleMetric:
  """`detection_auc` of equal numbers of rows; see `shape`."""
  check_at_least(2, num_folds=num_folds)

  def compare(rows, real, others, sizes):
    count = min(len(rows), len(real), MOST_ROWS)
    if count < num_folds:
      raise Missing(f'detection needs {num_folds} rows or more of both sets')
    x, y = (z[some_of(z, count)] for z in (rows, real))
    return detection_auc(x, y, sizes, num_folds, seed)

  note = f'0.5 at best, {num_folds} folds'
  return _metric('detection_auc', False, compare, beside, note, MOST_ROWS)


@declares(
  what='train on samples, test on real rows of the other split: the AUC of a column of categories, '
  'or R² of numbers'
)
def usefulness(target: str = '', beside: bool = True) -> SampleMetric:
  """`utility` of the column `target`, '' for the last one; of `real`: trained on reference rows."""

  def compute(samples, reference):
    sizes = reference['sizes']
    names = [*map(str, reference['names'])][: len(sizes)]
    real = _cells('usefulness', reference, sizes, what='reference')
    if 'others' not in reference:
      raise Missing('usefulness needs rows of the other split')
    if target and target not in names:
      raise ValueError(f'usefulness: target={target} is not a column: {", ".join(names)}')
    column = names.index(target) if target else len(names) - 1
    test = _cells('usefulness', reference, sizes, 'others', 'reference')
    if len(np.unique(test[np.isfinite(test[:, column]), column])) < 2:
      raise Missing(f'usefulness needs two values of {names[column]!r} in rows of the other split')
    rows = _cells('usefulness', samples, sizes)
    sets = {'': rows} | (
      {'real': real} | simple_rows.drawn(real, sizes, len(rows)) if beside else {}
    )
    what = 'AUC' if sizes[column] else 'R^2'
    note = f'{what} of {names[column]!r} on {len(test):,} real rows'
    return [
      Score('usefulness' + f'_{of}' * bool(of), Estimate(utility(x, test, sizes, column)), note)
      for of, x in sets.items()
    ]

  scores = ['usefulness', *(f'usefulness_{of}' for of in SETS * beside)]
  return SampleMetric(dict.fromkeys(scores, True), (*NEEDS, 'names'), compute)


@declares(
  what='the median distance to the closest training row, and the share of rows that are copies '
  'of one'
)
def copies_of_rows(beside: bool = True) -> SampleMetric:
  """`closest` of samples beside as many rows of the other split; copies have the distance 0."""

  def compute(samples, reference):
    sizes = reference['sizes']
    rows = _cells('copies', samples, sizes)
    real = _cells('copies', reference, sizes, what='reference')
    count = min(len(rows), MOST_NEAR, len(reference.get('others', rows)))
    sets = {'': rows[:count]}
    if beside and 'others' in reference:
      others = _cells('copies', reference, sizes, 'others', 'reference')
      sets['_real'] = others[some_of(others, count)]
    scores = []
    for of, x in sets.items():
      distance = closest(x, real, sizes)
      share = Estimate(float(np.mean(distance == 0.0)), float(np.std(distance == 0.0) / count**0.5))
      note = f'{count:,} rows against {len(real):,}'
      scores.append(Score(f'closest{of}', Estimate(float(np.median(distance))), f'median, {note}'))
      scores.append(Score(f'copied_rows{of}', share, note))
    return scores

  names = [f'{x}{of}' for of in ('', *['_real'] * beside) for x in ('closest', 'copied_rows')]
  scores = {x: x.startswith('closest') for x in names}
  return SampleMetric(scores, NEEDS, compute, of_training=True)


@declares(what='the share of the categories that samples have, in the mean over columns')
def categories(beside: bool = True) -> SampleMetric:
  """`coverage` of the reference's categories; see `shape`."""

  def compare(rows, real, others, sizes):
    return Estimate(coverage(rows, real, sizes))

  return _metric('coverage', True, compare, beside, 'mean over columns')


@declares(
  what='α-precision and β-recall (Alaa et al. 2022): whether samples are where real rows are, and '
  'real rows where samples are; 1 at best'
)
def alpha_precision(beside: bool = True) -> SampleMetric:
  """`precision_and_recall` of equal numbers of rows, at most MOST_NEAR; see `shape`.

  Samples without a missing cell get gaps, as in `detection_auc`.
  """

  def compute(samples: Arrays, reference: Arrays) -> list[Score]:
    sets, real, _, sizes = _sets('alpha_precision', samples, reference, beside)
    count = min(MOST_NEAR, len(real), *map(len, sets.values()))
    note, found = f'1 at best, {count:,} rows against as many', []
    real = real[some_of(real, count)]
    for of, rows in sets.items():
      some = _with_gaps(rows[some_of(rows, count)], real, 0)
      pair = precision_and_recall(some, real, sizes)
      for name, value in zip(_ALPHA_BETA, pair, strict=True):
        found.append(Score(name + f'_{of}' * bool(of), Estimate(value), note))
    return found

  names = [name + of for of in ('', *(f'_{x}' for x in SETS * beside)) for name in _ALPHA_BETA]
  return SampleMetric(dict.fromkeys(names, True), NEEDS, compute)


_ALPHA_BETA = 'alpha_precision', 'beta_recall'

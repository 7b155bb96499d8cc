"""Scores of rows against real rows: published definitions, known laws, and sets that are wrong."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ks_2samp

from diffusion_jax.metrics import rows, simple_rows
from diffusion_jax.metrics.estimates import Missing

SIZES = np.array([0, 3, 0, 2])


def table(rng, count, missing=0.1):
  """Returns rows of two numbers and two categories that depend on each other."""
  kind = rng.choice(3, count, p=[0.5, 0.3, 0.2])
  number = np.round(rng.normal(2.0 * kind), 1)
  other = np.exp(number + rng.normal(size=count))
  yes = rng.random(count) < 0.2 + 0.3 * kind
  x = np.stack([number, kind, other, yes], axis=1).astype(np.float64)
  return np.where(rng.random(x.shape) < missing, np.nan, x)


@pytest.fixture
def sets(rng):
  return table(rng, 900), table(rng, 700)


def test_errors_of_columns_are_ks_and_total_variation(sets):
  x, y = sets
  found = rows.shape_errors(x, y, SIZES)
  for i in (0, 2):
    a, b = (z[~np.isnan(z[:, i]), i] for z in sets)
    assert abs(found[i] - float(np.asarray(ks_2samp(a, b)[0]))) < 1e-12
  for i in (1, 3):
    a, b = (z[~np.isnan(z[:, i]), i] for z in sets)
    shares = [[np.mean(z == k) for k in range(SIZES[i])] for z in (a, b)]
    assert_allclose(found[i], 0.5 * np.abs(np.subtract(shares[0], shares[1])).sum())


def test_errors_of_pairs_are_those_of_correlations_and_contingency(sets):
  x, y = sets
  found = rows.trend_errors(x, y, SIZES)
  assert_array_equal(found, found.T)
  r = [np.corrcoef(z[~np.isnan(z[:, [0, 2]]).any(axis=1)][:, [0, 2]].T)[0, 1] for z in sets]
  assert_allclose(found[0, 2], abs(r[0] - r[1]) / 2)
  edges = np.histogram_bin_edges(y[~np.isnan(y[:, 0]), 0], rows.BINS)
  edges[0], edges[-1] = -np.inf, np.inf
  counts = []
  for z in sets:
    both = ~np.isnan(z[:, [0, 1]]).any(axis=1)
    edges_of_both = [edges, [-0.5, 0.5, 1.5, 2.5]]
    counts.append(np.histogram2d(z[both, 0], z[both, 1], edges_of_both)[0] / both.sum())
  assert_allclose(found[0, 1], 0.5 * np.abs(counts[0] - counts[1]).sum())


def scores(metric, samples, reference, others=None, names=('a', 'b', 'c', 'd')):
  arrays = {'values': reference, 'sizes': SIZES, 'names': names}
  arrays |= {} if others is None else {'others': others}
  return {s.name: s.estimate.value for s in metric.compute({'values': samples}, arrays)}


def test_real_rows_and_simple_models_stand_beside_samples(rng):
  """Independent columns have the right shapes and no pairs; the mixture has both."""
  real, others = table(rng, 2000), table(rng, 1000)
  shape = scores(rows.shape(0), table(rng, 1500), real, others)
  assert list(shape) == ['shape_error', *(f'shape_error_{x}' for x in rows.SETS)]
  assert all(value < 0.06 for value in shape.values())
  trend = scores(rows.trend(0), table(rng, 1500), real, others)
  assert trend['trend_error_independent'] > 3 * trend['trend_error_real']
  assert trend['trend_error_mixture'] < 2 * trend['trend_error_real']
  assert trend['trend_error'] < 2 * trend['trend_error_real']
  assert list(scores(rows.shape(0, beside=False), real, real)) == ['shape_error']
  assert 'shape_error_real' not in scores(rows.shape(0), real, real)


def test_a_classifier_finds_what_pairs_lack(rng):
  real, others = table(rng, 600), table(rng, 600)
  found = scores(rows.detection(3), simple_rows.independent(real, 600), real, others)
  assert found['detection_auc'] > 0.8
  assert 0.4 < found['detection_auc_real'] < 0.6
  full = np.where(np.isnan(others), np.nanmean(others), others)
  full = table(rng, 600, missing=0.0)
  assert 0.4 < scores(rows.detection(3, beside=False), full, real)['detection_auc'] < 0.6


def test_rows_are_useful_if_a_model_of_them_predicts_real_ones(rng):
  real, others = table(rng, 1000), table(rng, 1000)
  found = scores(rows.usefulness('d'), table(rng, 1000), real, others)
  assert abs(found['usefulness'] - found['usefulness_real']) < 0.08
  assert found['usefulness_real'] > 0.6 > found['usefulness_independent']
  number = scores(rows.usefulness('a', beside=False), table(rng, 1000), real, others)
  assert 0.5 < number['usefulness'] < 1.0
  arrays = {'values': real, 'others': others, 'sizes': SIZES, 'names': np.array(list('abcd'))}
  (score,) = rows.usefulness('d', beside=False).compute({'values': real}, arrays)
  assert score.note == "AUC of 'd' on 1,000 real rows"
  with pytest.raises(ValueError, match='target=e is not a column'):
    scores(rows.usefulness('e'), real, real, others)
  with pytest.raises(Missing):
    scores(rows.usefulness(), real, real)


def test_a_classifier_reads_what_it_can(rng):
  """A column without a known cell is not read, nor, of many rows, the only row of a class."""
  real, others = table(rng, 300), table(rng, 300)
  several = [rows.detection(3, beside=False), rows.usefulness('d', beside=False)]
  without = [scores(x, table(rng, 300), real, others) for x in several]
  for column in 0, 2:
    few = [z.copy() for z in (table(rng, 300), real, others)]
    for z in few:
      z[:, column] = np.nan
    found = [scores(x, *few) for x in several]
    assert 0.4 < found[0]['detection_auc'] < 0.6
    assert abs(found[1]['usefulness'] - without[1]['usefulness']) < 0.25
  many = table(rng, 10_500, missing=0.0)
  many[:, 3] = 0
  many[0, 3] = 1  # the only row of a class
  sizes = np.array([0, 3, 0, 3])
  many[1:5000, 3] = 2
  test = table(rng, 300, missing=0.0)
  assert 0.3 < rows.utility(many, test, sizes, 3) < 0.7


def test_a_target_needs_two_values_in_rows_of_the_other_split(rng):
  real, others = table(rng, 100), table(rng, 100, missing=0.0)
  with pytest.raises(Missing, match="two values of 'd' in rows of the other split"):
    scores(rows.usefulness('d'), real, real, others[others[:, 3] == 1])


def test_equal_numbers_of_rows_are_said(rng):
  arrays = {'values': table(rng, 500), 'sizes': SIZES, 'names': np.array(list('abcd'))}
  for samples, note in ((60, '60 rows against as many'), (900, '500 rows against as many')):
    (score,) = rows.detection(3, beside=False).compute({'values': table(rng, samples)}, arrays)
    assert score.note.endswith(note)


def test_copies_are_at_the_distance_0(rng):
  real, others = table(rng, 500), table(rng, 500, missing=0.0)
  half = np.concatenate([real[:100], others[:100]])
  found = scores(rows.copies_of_rows(), half, real, others)
  assert found['copied_rows'] == 0.5 and found['copied_rows_real'] < 0.02
  assert found['closest_real'] > 0.0
  # One category that differs is 1 away; a number by its deviations.
  base = np.array([[0.0, 1.0, 5.0, 0.0], [2.0, 1.0, 5.0, 0.0]])
  moved = base[:1] + [[0.0, 1.0, 0.0, 1.0]]
  assert_allclose(rows.closest(moved, base, SIZES), 2**0.5)
  assert_allclose(rows.closest(base[:1] + [[0.5, 0, 0, 0]], base, SIZES), 0.5)


def literal_precision_and_recall(x, y):
  """Alaa et al. 2022, equations 5 and 8, from the text, with a loop for each sum."""
  n, levels = len(y), [k / 29 for k in range(30)]

  def apart(a, b):
    return sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) ** 0.5

  def quantile(values, p):
    values, at = sorted(values), p * (len(values) - 1)
    low = min(int(at + 1e-12), len(values) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])

  centre, middle = (z.mean(axis=0) for z in (y, x))
  radii = [apart(row, centre) for row in y]
  nearest = [min(range(len(x)), key=lambda j: apart(x[j], row)) for row in y]
  covered = [
    apart(x[j], y[i]) <= min(apart(y[k], y[i]) for k in range(n) if k != i)
    for i, j in enumerate(nearest)
  ]
  spread = [apart(x[j], middle) for j in nearest]
  errors = [0.0, 0.0]
  for level in levels:
    radius, wide = quantile(radii, level), quantile(spread, level)
    precision = sum(apart(row, centre) <= radius for row in x) / len(x)
    recall = sum(c and s <= wide + 1e-15 for c, s in zip(covered, spread, strict=True)) / n
    errors[0] += abs(level - precision)
    errors[1] += abs(level - recall)
  return [1 - e / sum(levels) for e in errors]


def test_alpha_precision_and_beta_recall_are_the_published_ones(rng):
  y, x = rng.uniform(size=(40, 3)), rng.uniform(size=(40, 3)) ** 2
  y[:2], none = [[0, 0, 0], [1, 1, 1]], np.zeros(3, int)  # numbers on [0, 1], as they are
  found = rows.precision_and_recall(x, y, none)
  assert_allclose(found, literal_precision_and_recall(x, y), atol=1e-12)
  # Categories are one-hot, numbers on [0, 1] over real rows.
  codes = np.stack([rng.integers(0, 3, 40), 7 * y[:, 1] - 2], axis=1).astype(float)
  others = codes[rng.permutation(40)] + [0.0, 0.3]
  wide = [
    np.column_stack([np.eye(3)[z[:, 0].astype(int)], (z[:, 1] + 2) / 7]) for z in (others, codes)
  ]
  found = rows.precision_and_recall(others, codes, np.array([3, 0]))
  assert_allclose(found, literal_precision_and_recall(*wide), atol=1e-12)


def test_alpha_precision_and_beta_recall_find_what_is_wrong(rng):
  real, others = table(rng, 600), table(rng, 600)
  found = scores(rows.alpha_precision(), others, real, others)
  assert found['alpha_precision'] == found['alpha_precision_real'] > 0.9
  full = scores(rows.alpha_precision(beside=False), table(rng, 600, missing=0.0), real)
  assert full['alpha_precision'] > 0.9  # gaps of the real rows do not tell
  one = np.repeat(real[:1], 600, axis=0)  # a mode that is dropped, samples that are all one row
  few = scores(rows.alpha_precision(beside=False), one, real)
  assert few['alpha_precision'] < 0.6 and few['beta_recall'] < 0.1 < found['beta_recall_real']


def test_coverage_is_of_the_categories_that_real_rows_have(rng):
  real = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 2, 0, np.nan]], np.float64)
  assert rows.coverage(real, real, SIZES) == 1.0
  assert_allclose(rows.coverage(real[:1], real, SIZES), (1 / 3 + 1 / 2) / 2)
  assert rows.coverage(real, real, np.zeros(4, int)) == 1.0


def test_missing_cells_have_no_part(rng):
  real = table(rng, 400)
  assert_allclose(rows.shape_errors(real[:, :2], real[:, :2], SIZES[:2]), 0.0)
  empty = np.full((400, 4), np.nan)
  assert np.isnan(rows.shape_errors(empty, real, SIZES)).all()


@pytest.mark.parametrize(
  'metric',
  [
    *(rows.shape, rows.trend, rows.categories, rows.copies_of_rows, rows.alpha_precision),
    *(rows.usefulness, rows.detection),
  ],
  ids=lambda metric: metric.__name__,
)
def test_what_says_which_cells_are_missing_is_no_column(metric, rng):
  """The last columns, which have no size, change no score; the target is the last own one."""
  sets = [table(rng, 120) for _ in range(3)]
  right = scores(metric(beside=False), *sets)
  more = [np.concatenate([x, np.isnan(x[:, :2])], axis=1) for x in sets]
  names = 'a', 'b', 'c', 'd', 'a present', 'b present'
  assert scores(metric(beside=False), *more, names=names) == right and right

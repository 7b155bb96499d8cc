"""Moments and distances of values for laws that are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize
from scipy.spatial.distance import cdist
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from diffusion_jax.metrics import features, mmd, vectors
from tests.transcribed import transcribes


def test_features_are_standardised_by_each_channel_of_the_reference(rng):
  """Values of 1000 +- 0.001 keep their digits, which float32 would lose."""
  reference = 1e3 + 1e-3 * rng.standard_normal((500, 6, 2)) * [1.0, 3.0]
  standard = vectors.standard_of(reference)
  assert_allclose(standard.std, reference.reshape(-1, 2).std(axis=0))
  flat = standard.features(reference)
  assert flat.shape == (500, 12)
  shaped = flat.reshape(-1, 2)
  assert_allclose(shaped.mean(axis=0), 0.0, atol=1e-6)
  assert_allclose(shaped.std(axis=0), 1.0)


@pytest.mark.parametrize('constant', [7.0, 0.1, -1e5 / 3.0])
def test_a_constant_channel_is_only_centred(constant):
  same = np.full(200, constant)
  rounded = np.where(np.arange(200) % 3, same, np.nextafter(same, np.inf))
  x = np.stack([np.arange(200.0), same, rounded], axis=1)
  x = np.tile(x, (500, 1))  # as many that rounding adds up in a plain mean
  standard = vectors.standard_of(x)
  assert_array_equal(standard.std[1:], 1.0)
  found = standard.features(x)
  assert_array_equal(found[:, 1], 0.0)
  assert_allclose(found[:, 2], 0.0, atol=1e-10)


def test_a_constant_number_changes_no_score(rng):
  """A constant number changes no score, even if only one side has it in float32."""
  x, y = np.round(rng.standard_normal((2, 120, 2)), 2)
  x, y = (a - a.mean(axis=0) for a in (x, y))

  def scores(*constants):
    arrays = []
    for a, dtype in ((x, np.float32), (y, np.float64)):
      more = np.tile(np.array(constants), (len(a), 1))
      arrays.append({'values': np.append(a, more, axis=1).astype(dtype)})
    metrics = mmd.energy(), vectors.moments(0), vectors.sliced(2000, 0)
    return [s.estimate.value for metric in metrics for s in metric.compute(*arrays)]

  *plain, w2 = scores()
  *found, w2_of_six = scores(0.1, 1.0 / 3.0, 123456.7, 1e9 / 7.0)
  assert_allclose(found, plain, rtol=1e-5)
  # W2 along directions of six dimensions: the mean square is 2 / 6.
  assert_allclose(w2_of_six * 3**0.5, w2, rtol=0.1)


def test_constant_but_for_rounding_has_no_correlation(rng):
  """Numbers that are constant but for rounding, in either set, have no correlation."""
  y = rng.standard_normal((300, 2))
  found = vectors.moment_errors(np.stack([y[:, 0], np.full(300, 0.1)], axis=1), y)
  correlation = abs(np.corrcoef(y.T)[0, 1])
  assert_allclose(found.std, 1.0)
  assert_allclose(found.correlation, max(correlation, 1.0))


def test_the_extractor_of_values_names_its_statistics(rng):
  x, y = rng.standard_normal((2, 30, 3))
  made = [vectors.standard_of(array) for array in (x, y)]
  first, other = (features.make('values', standard=s) for s in made)
  assert_allclose(first.extract(y)['features'], (y - x.mean(axis=0)) / x.std(axis=0))
  assert first.identity['features'] == 'values'
  assert first.identity != other.identity
  assert first.identity == features.make('values', standard=made[0]).identity
  with pytest.raises(ValueError, match='need the statistics of the reference'):
    features.make('values')


def test_errors_of_moments_that_are_known(rng):
  """An affine map of the reference has these moments exactly."""
  y = rng.standard_normal((400, 2)) @ [[2.0, 1.0], [0.0, 3.0]]
  std, correlation = y.std(axis=0), np.corrcoef(y.T)[0, 1]
  x = y * [1.0, 1.3] + [0.2 * std[0], -0.1 * std[1] - 0.3 * y[:, 1].mean()]
  assert_allclose(vectors.moment_errors(x, y), (0.2, 0.3, 0.0), atol=1e-9)
  flipped = vectors.moment_errors(y * [1.0, -1.0], y)
  assert_allclose(flipped.correlation, 2.0 * abs(correlation))


def test_the_errors_of_moments_are_deviations_over_sets(rng):
  y = rng.standard_normal((20_000, 1))
  x = 1.0 + rng.standard_normal((500, 1))
  scores = vectors.moments(num_draws=200).compute({'values': x}, {'values': y})
  assert [s.name for s in scores] == ['moments_mean', 'moments_std', 'moments_correlation']
  assert_allclose(scores[0].estimate.error, 500**-0.5, rtol=0.2)


@transcribes(
  'C2ST (Lopez-Paz & Oquab 2017)',
  'as in sbibm',
  '`metrics.vectors.classifier_accuracy`',
)
def test_the_accuracy_is_that_of_sbibm(rng):
  """X is the reference, Y the samples; its seed is 1."""
  reference = 3.0 + 2.0 * rng.standard_normal((150, 2))
  samples = reference[::-1] + 1.0
  mean, std = reference.mean(axis=0), reference.std(axis=0, ddof=1)
  data = np.concatenate([(reference - mean) / std, (samples - mean) / std])
  target = np.concatenate([np.zeros(150), np.ones(150)])
  network = MLPClassifier(
    activation='relu', hidden_layer_sizes=(20, 20), max_iter=10000, solver='adam', random_state=1
  )
  folds = KFold(n_splits=5, shuffle=True, random_state=1)
  scores = cross_val_score(network, data, target, cv=folds, scoring='accuracy')
  found = vectors.classifier_accuracy(samples, reference)
  assert_allclose(found, (scores.mean(), scores.std()))


def test_the_larger_set_is_cut():
  x, y = {'values': np.zeros((40, 1))}, {'values': np.zeros((90, 1))}
  [score] = vectors.c2st(max_samples=30).compute(x, y)
  assert '30 against 30' in score.note
  [score] = vectors.c2st().compute(x, y)
  assert '40 against 40' in score.note


def test_random_rows_are_left_of_a_set_in_order():
  """The first rows of sorted sets would have another law than the sets."""
  x = np.linspace(-1.0, 1.0, 400)[:, None]
  [accuracy] = vectors.c2st(max_samples=60).compute({'values': x}, {'values': x[::-1]})
  [distance] = mmd.energy(max_samples=60).compute({'values': x}, {'values': x[::-1]})
  assert accuracy.estimate.value < 0.75  # of the first rows 1
  assert distance.estimate.value < 0.5  # of the first rows 2


@transcribes('sliced W2 (Bonneel et al. 2015)', 'projections', '`metrics.vectors.sliced_w2`')
def test_one_dimension_is_optimal_transport(rng):
  """SciPy assigns 6 points, each twice, to 4 points, each three times."""
  x, y = rng.standard_normal((6, 1)), rng.standard_normal((4, 1)) + 1.0
  cost = cdist(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0)) ** 2
  expected = cost[optimize.linear_sum_assignment(cost)].mean()
  assert_allclose(vectors.wasserstein_2(x, y), [expected])


@transcribes('sliced W2 (Bonneel et al. 2015)', 'projections')
def test_a_shift_is_its_length_along_the_directions(rng):
  """The W2 of a shift is its projection, whose mean square is |s|^2 / D."""
  x, shift = rng.standard_normal((50, 3)), np.array([1.0, 2.0, -2.0])
  expected = np.sqrt(np.mean((vectors.directions(100, 3) @ shift) ** 2))
  assert_allclose(vectors.sliced_w2(x + shift, x), expected)
  many = vectors.sliced_w2(x + shift, x, num_directions=20_000)
  assert_allclose(many, 3.0 / 3**0.5, rtol=0.02)


def test_the_metric_is_in_deviations_of_the_reference(rng):
  y = rng.standard_normal((300, 2)) * [5.0, 1e-3]
  mean = y.mean(axis=0)
  [score] = vectors.sliced(num_draws=0).compute({'values': 2.0 * y - mean}, {'values': y})
  # Twice as wide: each quantile moves by its distance from the mean.
  z = (y - mean) / y.std(axis=0)
  expected = np.sqrt(np.mean((z @ vectors.directions(100, 2).T) ** 2))
  assert_allclose(score.estimate.value, expected)
  assert np.isnan(score.estimate.error)

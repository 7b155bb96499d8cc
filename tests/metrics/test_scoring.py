"""Scores of samples by several metrics, each in its space."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import SampleMetric, Score
from diffusion_jax.metrics.scoring import (
  References,
  Scored,
  Space,
  beside,
  floor,
  rows_with,
  score,
)


def compute(samples, reference):
  difference = samples['features'].mean() - reference['features'].mean()
  return [Score('shift', Estimate(float(difference), 0.0))]


METRIC = SampleMetric({'shift': False}, ('features',), compute)


def test_each_metric_sees_the_features_of_its_space():
  reference = {'features': np.zeros(4), 'held_out': np.full(3, 5.0)}
  spaces = {'a': Space(None, reference, {}, {}), 'b': Space(None, {'features': np.ones(4)}, {}, {})}
  every = [Scored('one', METRIC, 'a', '_a'), Scored('two', METRIC, 'b', '_b')]
  extracted = {'a': {'features': np.full(2, 3.0)}, 'b': {'features': np.full(2, 4.0)}}
  found = score(every, References({}, spaces), {}, extracted)
  assert [(x.name, x.estimate.value) for x in found] == [('shift_a', 3.0), ('shift_b', 3.0)]
  found = floor(every[:1], References({}, {'a': spaces['a']}), 2)
  assert [(x.name, x.estimate.value) for x in found] == [('shift_a', 5.0)]
  with pytest.raises(ValueError, match="one reads the array 'features'; the samples have none"):
    score(every[:1], References({}, spaces), {}, {})


def test_held_out_examples_take_the_place_of_samples():
  """They have the samples' classes, each example once, in a random order."""
  labels = np.repeat([0, 1, 2], [500, 300, 40])
  x = np.arange(840.0)
  spaces = {'a': Space(None, {'features': np.zeros(1), 'held_out': x}, {}, {})}
  references = References({}, spaces, labels)
  wanted = lambda n: np.resize([1, 0, 1], n)

  def rows(labels_of):
    return beside(references, labels_of).spaces['a'].reference['held_out'].astype(int)

  found = rows(wanted)
  assert len({*found}) == len(found)
  assert_array_equal(labels[found][:450], wanted(450))  # then class 1 has ended
  assert len(found) < 460
  assert np.mean(np.diff(found[labels[found] == 1]) > 0) < 0.6
  # Without labels, all of them in a random order.
  assert sorted(rows(None)) == [*range(840)] and (np.diff(rows(None)) > 0).mean() < 0.6
  with pytest.raises(ValueError, match='no held-out example has a class of the samples'):
    rows(lambda n: np.full(n, 3))


def test_a_random_set_stands_beside_samples_with_nearly_all_of_its_examples(rng):
  """It does not end with a class that is rare or absent by chance."""
  share = np.array([0.5, 0.3, 0.199, 0.001])
  for n, kept in ((300, 0.8), (30_000, 0.97)):
    labels = rng.choice(3, n, p=share[:3] / share[:3].sum())
    wanted = rng.permutation(np.repeat(range(4), np.rint(share * 100_000).astype(int)))
    rows = rows_with(labels, wanted[:n])
    assert kept * n < len(rows) == len({*rows})
    found = np.bincount(labels[rows], minlength=4) / len(rows)
    assert np.abs(found - share).max() < 2.0 / n**0.5
  # A set of other frequencies ends where its rare class does.
  labels = np.repeat([0, 1], [9000, 1000])
  assert 2000 < len(rows_with(labels, np.arange(10_000) % 2)) < 2100

"""Scores of samples by several metrics, each in its space."""

import numpy as np
import pytest

from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import SampleMetric, Score
from diffusion_jax.metrics.scoring import References, Scored, Space, floor, score


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

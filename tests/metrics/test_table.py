"""Each metric of the table computes the scores that it names."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics import fid, table


@pytest.fixture
def sets():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((40, 3)), rng.standard_normal((30, 3)) + 1.0
  return {'features': x}, {'features': y}


def value(name, samples, reference):
  [row] = table.METRICS[name](num_draws=0).compute(samples, reference)
  return row.estimate.value


def test_statistics_come_before_images(sets):
  """Statistics in a file may be of more images than the file has."""
  samples, reference = sets
  x, y = (fid.statistics(each['features']) for each in sets)
  other = fid.Statistics(y.mean + 1.0, y.covariance)
  found = value('fd', samples, reference | fid.as_arrays({'features': other}))
  assert_allclose(found, fid.frechet_distance(x, other))
  alone = fid.as_arrays({'features': x})
  assert_allclose(value('fd', alone, reference), fid.frechet_distance(x, y))
  spatial = {'spatial': samples['features']}
  assert_allclose(
    value('sfd', spatial, fid.as_arrays({'spatial': other})), fid.frechet_distance(x, other)
  )


@pytest.mark.parametrize('name', table.METRICS)
def test_a_metric_computes_the_scores_that_it_names(sets, name):
  samples, reference = sets
  rng = np.random.default_rng(1)
  every = samples | {
    'spatial': samples['features'],
    'logits': samples['features'],
    'predicted': np.zeros(40),
    'labels': np.zeros(40),
    'values': samples['features'][:, :1],  # a classifier learns them
    'draws': rng.standard_normal((30, 9, 3)),
    'log_q': rng.standard_normal((30, 9)),
  }
  more = {
    'spatial': reference['features'],
    'values': reference['features'][:, :1],
    'truth': reference['features'],
    'context': rng.standard_normal((30, 2)),
    'log_q': rng.standard_normal(30),
    'law_mean': np.zeros((30, 3)),
    'law_cov': np.eye(3),
  }
  more['held_out'] = rng.standard_normal((20, 3))
  metric = table.METRICS[name]()
  samples = {n: x for n, x in every.items() if n in metric.needs}
  reference = {n: x for n, x in (reference | more).items() if n in metric.needs}
  scores = metric.compute(samples, reference)
  assert [score.name for score in scores] == list(metric.scores)
  assert all(np.isfinite(score.estimate.value) for score in scores)


def test_memorisation_says_what_is_expected_and_what_was_left_out(sets):
  """The reference contains 15 of the 40 held-out examples."""
  samples, reference = sets
  x, y = (each['features'] for each in sets)
  reference['held_out'] = np.concatenate([y[:15], x[:25] + 1.0])
  closer, copied, *_ = table.METRICS['memorisation']().compute(samples, reference)
  left = '25 held-out examples (15 more are in the reference)'
  assert closer.note == f'to the reference than {left}: 0.5 without copies'
  assert copied.note == (  # (0.01 * 24 + 1) / 26
    f'closer than 1 % of {left}: 0.0477 without copies'
  )

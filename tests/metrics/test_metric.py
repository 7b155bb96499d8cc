import numpy as np
import pytest

from diffusion_jax.metrics import fid, scores
from diffusion_jax.metrics.estimates import Estimate

SETTING = scores.Setting(num_draws=0)


@pytest.fixture
def sets():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((40, 3)), rng.standard_normal((30, 3)) + 1.0
  return scores.Described({'features': x}), scores.Described({'features': y})


def value(measure, samples, reference):
  [row] = scores.score(measure, samples, reference, SETTING)
  return row.estimate.value


def test_statistics_come_before_images(sets):
  """Those of a file may be of more images than the file has."""
  samples, reference = sets
  x, y = (fid.statistics(each.found['features']) for each in sets)
  found = value('fd', samples, reference)
  np.testing.assert_allclose(found, fid.frechet_distance(x, y))
  other = fid.Statistics(y.mean + 1.0, y.covariance)
  found = value('fd', samples, reference._replace(statistics=other))
  np.testing.assert_allclose(found, fid.frechet_distance(x, other))
  alone = scores.Described({}, statistics=x)
  np.testing.assert_allclose(
    value('fd', alone, reference), fid.frechet_distance(x, y)
  )


def test_few_samples_are_computed_and_noted(sets):
  samples, reference = sets
  few = scores.Described({'features': samples.found['features'][:3]})
  [row] = scores.score('fd', few, reference, SETTING)
  assert np.isfinite(row.estimate.value)
  assert '3 samples, no more than the 3 features: the covariance' in row.note


@pytest.mark.parametrize(
  'measure, message',
  [
    ('sfd', 'sfd needs spatial features of the samples'),
    ('is', 'is needs logits of a classifier'),
    ('accuracy', 'accuracy needs labels of the samples'),
    ('memorisation', 'memorisation needs held-out images, 1 or more'),
  ],
)
def test_what_is_missing_is_named(sets, measure, message):
  with pytest.raises(scores.Missing, match=message):
    scores.score(measure, sets[0], sets[1], SETTING)


def test_memorisation_says_what_is_expected_and_what_was_left_out(sets):
  """Of 40 held-out images the 15 that the reference has."""
  samples, reference = sets
  x, y = (each.found['features'] for each in sets)
  held_out = np.concatenate([y[:15], x[:25] + 1.0])
  setting = SETTING._replace(held_out=held_out)
  closer, copied, *_ = scores.score('memorisation', samples, reference, setting)
  left = '25 held-out images (15 more are in the reference)'
  assert closer.note == f'to the reference than {left}: 0.5 without copies'
  assert copied.note == (  # (0.01 * 24 + 1) / 26
    f'closer than 1 % of {left}: 0.0477 without copies'
  )


def test_accuracy_is_of_the_labels(sets):
  samples, reference = sets
  samples.found['predicted'] = np.arange(40) % 4
  labelled = samples._replace(labels=np.arange(40) % 2)
  assert value('accuracy', labelled, reference) == 0.5
  with pytest.raises(ValueError, match='3 labels of 40 samples'):
    value('accuracy', samples._replace(labels=np.arange(3)), reference)


def test_tables_show_errors_where_they_are_known():
  rows = [
    scores.Score('fid', Estimate(3.25, 0.05), 'a note'),
    scores.Score('a_name_of_many_letters', Estimate(2.0)),
  ]
  assert scores.table(rows) == (
    'fid                           3.25  +- 0.05      a note\n'
    'a_name_of_many_letters           2'
  )
  assert scores.as_json(rows) == {
    'fid': {'value': 3.25, 'error': 0.05, 'note': 'a note'},
    'a_name_of_many_letters': {'value': 2.0, 'error': None, 'note': ''},
  }

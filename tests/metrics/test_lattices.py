"""Notes about columns of whole numbers, by metrics that see them."""

import inspect

import numpy as np
import pytest

from diffusion_jax.metrics import lattices, table, vectors
from diffusion_jax.metrics.estimates import Estimate

RNG = np.random.default_rng(0)
NAMES = np.array(['rooms', 'area'])
COUNT = 400


def houses(rng, count=COUNT):
  return np.stack([rng.integers(1, 11, count), rng.normal(0.0, 5.0, count)], axis=1)


REAL, MORE = houses(RNG), houses(RNG)
SMOOTH = RNG.normal(REAL.mean(axis=0), REAL.std(axis=0), (COUNT, 2)).astype(np.float32)
TOLD = 'column {} has 10 different values in the {}'
# Metrics that a lattice does not break: of moments, of classes.
BLIND = {'fd', 'sfd', 'fid', 'sfid', 'is', 'accuracy', 'moments', 'contraction'}
BLIND |= {'crps', 'predictive'}


def notes(name, samples, reference, names):
  """Returns the notes of a metric of values, features and draws."""
  rng = np.random.default_rng(1)
  draws = samples[:, None] + np.zeros((1, 3, 1))
  if samples is SMOOTH:
    draws = draws + rng.normal(size=draws.shape)
  one = {'values': samples, 'features': samples, 'draws': draws, 'log_q': draws[..., 0]}
  other = {'values': reference, 'features': reference, 'truth': reference}
  other |= {'held_out': MORE, 'context': MORE, 'log_q': draws[:, 0, 0]} | names
  metric = table.METRICS[name]
  few = {'num_subsets': 1} if name == 'kid' else {}
  return {score.note for score in metric(**few).compute(one, other)}


@pytest.mark.parametrize('name', sorted({*table.METRICS} - BLIND - {'regression'}))
def test_metrics_name_a_column_of_whole_numbers(name, monkeypatch):
  """A column of whole numbers in one set alone is named, by its name or its number."""
  monkeypatch.setattr(vectors, 'classifier_accuracy', lambda *args: Estimate(0.5))
  told, unnamed = notes(name, SMOOTH, REAL, {'names': NAMES}), {'names': np.array([])}
  assert told, f'the constructor of {name} needs @lattices.named, or {name} is BLIND'
  assert all(note.endswith(TOLD.format('rooms', 'reference')) for note in told)
  found = notes(name, MORE, SMOOTH, unnamed)
  assert all(note.endswith(TOLD.format(0, 'samples')) for note in found)
  assert not any('different' in note for note in notes(name, MORE, REAL, unnamed))
  if 'features' in table.METRICS[name]().needs:  # Features without names are hidden units.
    assert not any('different' in note for note in notes(name, MORE, SMOOTH, {}))


def test_the_regression_of_whole_numbers_and_the_channels_of_sequences():
  draws = RNG.normal(5.0, 3.0, (COUNT, 5, 1))
  scores = table.METRICS['regression']().compute({'draws': draws}, {'truth': REAL[:, :1]})
  assert all(x.note.endswith(TOLD.format(0, 'reference')) for x in scores)
  x, y = (values.reshape(-1, 4, 2) for values in (SMOOTH, REAL))
  (score,) = vectors.sliced().compute({'values': x}, {'values': y, 'names': NAMES})
  assert score.note.endswith(TOLD.format('rooms', 'reference'))


@pytest.mark.parametrize(
  'column, is_told',
  [
    (RNG.integers(0, 100, 3000), True),
    (RNG.normal(size=3000).round(1), True),
    (np.where(RNG.uniform(size=3000) < 0.2, 0.0, RNG.normal(size=3000)), True),  # zeros
    (np.full(3000, 0.1), True),
    (RNG.normal(size=3000).round(2), False),
    (RNG.normal(size=3000), False),
  ],
)
def test_what_repeats_enough_to_be_seen(column, is_told):
  others = RNG.normal(size=(2500, 1))
  note = lattices.described(others, column[:, None], np.array([]))
  count = len(np.unique(column))
  s = 's' * (count > 1)
  assert note == f'column 0 has {count:,} different value{s} in the reference' * is_told


def test_a_note_names_three_columns_and_the_metric_keeps_its_fields():
  x, y = RNG.normal(size=(100, 5)), RNG.integers(0, 4, (100, 5))
  note = lattices.described(x, y, np.array([]))
  assert note.count('column') == 3 and note.endswith('; 2 more')
  assert lattices.described(x[:3], y[:3], np.array([])) == ''  # too few to see
  some, more = (RNG.normal(size=(500, 1)) * (RNG.uniform(size=(500, 1)) > p) for p in (0.2, 0.4))
  assert lattices.described(some, more, np.array([])) == ''  # zeros are in both
  assert [*inspect.signature(vectors.c2st).parameters] == ['num_folds', 'seed', 'max_samples']

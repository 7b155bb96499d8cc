import pytest

from diffusion_jax.report import results
from diffusion_jax.report.record import Curve, Run


@pytest.mark.parametrize('value, error, text', [
  (2.87324, 0.03704, '2.873 ± 0.037'),
  (1234.5678, 12.3, '1235 ± 12'),
  (0.984, 0.0056, '0.9840 ± 0.0056'),
  (3.1712345, None, '3.1712'),
  (1.0, 0.0, '1'),
  (float('nan'), 0.1, ''),
  (None, None, ''),
])  # fmt: skip
def test_a_value_has_the_places_of_its_error(value, error, text):
  assert results.with_error(value, error) == text


def score(value, note=''):
  return {'value': value, 'error': None, 'note': note}


def test_scores_are_one_table_with_how_they_were_made():
  """Each point of a sweep is a row, named like its folder."""
  sampling = {
    'num_samples': 1437, 'checkpoint': '9', 'num_steps': 4, 'seed': 0,
    'sampler': {'name': 'ddim'}, 'guidance': {'scale': 2.0},
  }  # fmt: skip
  found = [
    ('samples/num_steps=4', {
      'metrics': {'fd': score(0.25, 'few samples')},
      'protocol': {'samples': {'sampling': sampling}},
    }),
    ('samples', {'points': []}),
    ('others', {'metrics': {'fd': score(0.1), 'kid': score(1.0)}}),
  ]  # fmt: skip
  (table,) = results.parts(found)
  assert table.rows == [
    ['evaluation', 'fd', 'kid', 'about'],
    ['samples/num_steps=4', '0.25', '', (
      '1,437 of checkpoint 9, ddim, 4 steps, guidance 2.0, seed 0, few samples'
    )],
    ['others', '0.1', '1', ''],
  ]  # fmt: skip


def test_a_run_ends_with_its_last_values_and_results():
  bits = {'bits_per_dim': 2.5, 'standard_error': 0.1}
  curves = {
    'loss': Curve([1, 2], [0.5, 0.25]),
    'learning_rate': Curve([1], [0.1]),
    'images_per_second': Curve([1, 2, 3], [1.0, 9.0, 2.0]),
  }
  run = Run('a', {}, curves, [], [('elbo-test', bits)], [])
  assert results.final(run) == {
    'loss': '0.25',
    'images_per_second': '2',
    'bits/dim, elbo-test': '2.50 ± 0.10',
  }

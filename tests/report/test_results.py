"""Tables of results say how each score was made, with the digits that its error allows."""

import pytest

from diffusion_jax.report import results
from diffusion_jax.report.record import Curve, Record


@pytest.mark.parametrize(
  'value, error, text',
  [
    (2.87324, 0.03704, '2.873\xa0±\xa00.037'),
    (1234.5678, 12.3, '1235\xa0±\xa012'),
    (0.984, 0.0056, '0.9840\xa0±\xa00.0056'),
    (3.1712345, None, '3.1712'),
    (1.0, 0.0, '1'),
    (float('nan'), 0.1, ''),
    (None, None, ''),
  ],
)
def test_a_value_has_the_places_of_its_error(value, error, text):
  assert results.with_error(value, error) == text


def score(value, note=''):
  return {'value': value, 'error': None, 'note': note}


def run_of(found):
  return Record('a', {}, {}, [], found, [])


def test_scores_are_one_table_with_how_they_were_made():
  """Each point of a sweep is a row, named in words; so are scores by another reference."""
  sampling = {
    'num_samples': 1437,
    'checkpoint': '9',
    'grid': {'name': 'steps', 'number': 4, 'spacing': 'uniform'},
    'seed': 0,
    'sampler': {'name': 'ddim'},
    'guidance': {'name': 'classifier_free', 'scale': 2.0},
  }
  drawn = {'samples': {'sampling': sampling}}
  found = [
    (
      'fd-a/num_steps=4,eta=1',
      {
        'metric': 'fd',
        'metrics': {'fd_digits': score(0.25, 'few samples')},
        'protocol': drawn,
      },
    ),
    ('sweep-a', {'points': []}),
    ('others', {'metrics': {'fd_digits': score(0.1), 'kid': score(1.0)}}),
    (
      'kid-a/num_steps=4,eta=1',
      {'metric': 'kid', 'metrics': {'kid': score(0.5)}, 'protocol': drawn},
    ),
    (
      'fd-a/num_steps=4,eta=1',
      {'metric': 'fd', 'metrics': {'fd_digits': score(0.75)}, 'protocol': drawn},
    ),
  ]
  (table,) = results.parts(run_of(found))
  assert table.rows == [
    ['evaluation', 'FD digits', 'KID', 'about'],
    [
      'samples a, num steps 4, eta 1',
      '0.25',
      '0.5',
      ('ddim, 4 steps, classifier_free 2, 1,437 of checkpoint 9, seed 0, few samples'),
    ],
    ['others', '0.1', '1', ''],
    [
      'samples a, num steps 4, eta 1',
      '0.75',
      '',
      'ddim, 4 steps, classifier_free 2, 1,437 of checkpoint 9, seed 0',
    ],
  ]


def test_a_run_ends_with_its_last_values_and_results():
  bits = {'bits_per_dim': 2.5, 'standard_error': 0.1}
  nats = {'nats_per_dim': -0.25, 'standard_error': None, 'examples': 12}
  curves = {
    'loss': Curve([1, 2], [0.5, 0.25]),
    'learning_rate': Curve([1], [0.1]),
    'images_per_second': Curve([1, 2, 3], [1.0, 9.0, 2.0]),
    'tflops': Curve([1, 2, 3], [3.0, 1.0, 2.0]),
    'mfu': Curve([1, 2, 3], [0.3, 0.1, 0.2]),
  }
  scores = {'metrics': {'fid': score(3.0), 'loss': score(1.0)}}
  found = [('elbo-test', bits), ('samples', scores), ('samples-a', scores)]
  found += [('ode-test', nats)]
  run = Record('a', {}, curves, [], found, [])
  assert results.final(run) == {
    'bits/dim, ELBO test': '2.50\xa0±\xa00.10',
    'nats/dim, ODE test': '-0.25',
    'FID': '3',
    'loss': '1',
    'FID, samples a': '3',
    'loss, samples a': '1',
    'images per second': '2',
    'TFLOP/s of a device': '2',
    'MFU': '0.2',
  }


def test_likelihoods_have_a_table_for_each_unit():
  bits, nats = ({f'{n}_per_dim': 1.0, 'examples': 12} for n in ('bits', 'nats'))
  tables = [*results.parts(run_of([('elbo-test', bits), ('ode-test', nats)]))]
  assert [table.rows for table in tables] == [
    [['evaluation', 'bits per dimension', 'images', 'random steps'], ['ELBO test', '1', '12', '']],
    [['evaluation', 'nats per dimension', 'images', 'random steps'], ['ODE test', '1', '12', '']],
  ]


def test_losses_are_a_table_of_denoisers_and_quarters():
  """The table leaves out classes, which are in the file; a quarter without draws is empty."""
  network = {'all': score(0.5), 't 0 to 1/4': score(0.7), 'class 0': score(9.0)}
  losses = {'loss': network, 'nothing_learnt': {'all': score(1.0)}}
  (table,) = results.parts(run_of([('loss-test', {'losses': losses})]))
  assert isinstance(table, results.Table) and table.caption.endswith('loss test')
  assert table.rows == [
    ['', 'all', 't 0 to 1/4'],
    ['loss', '0.5', '0.7'],
    ['nothing learnt', '1', ''],
  ]

"""Tables of results say how each score was made, with the digits that its error allows."""

import pytest

from diffusion_jax.report import results
from diffusion_jax.report.record import Curve, Record

UNSAID = {'sampling': {'num_samples', 'checkpoint', 'seed'}, 'evaluation': {'reference', 'metrics'}}


@pytest.mark.parametrize(
  'value, error, text',
  [
    (2.87324, 0.03704, '2.873\xa0±\xa00.037'),
    (1234.5678, 12.3, '1235\xa0±\xa012'),
    (0.984, 0.0056, '0.9840\xa0±\xa00.0056'),
    (3.1712345, None, '3.1712'),
    (1.0, 0.0, '1'),
    (6.9e-14, 1.2e-14, '6.9e-14\xa0±\xa01.2e-14'),
    (-6.9e-5, 3e-6, '-6.90e-05\xa0±\xa03.0e-06'),
    (0.0, 2e-9, '0.0e+00\xa0±\xa02.0e-09'),
    (1.5e30, 1e28, '1.500e+30\xa0±\xa01.0e+28'),
    (442_602.0, 79_377.0, '442602\xa0±\xa079377'),
    (float('nan'), 0.1, ''),
    (None, None, ''),
  ],
)
def test_a_value_has_the_places_of_its_error(value, error, text):
  assert results.with_error(value, error) == text


def score(value, note=''):
  return {'value': value, 'error': None, 'note': note}


def run_of(found):
  return Record('a', {}, {}, [], found, [], unsaid=UNSAID)


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
      'samples a, num_steps=4, eta=1',
      '0.25',
      '0.5',
      ('ddim, 4 steps, classifier_free 2, 1,437 of checkpoint 9, seed 0, few samples'),
    ],
    ['others', '0.1', '1', ''],
    [
      'samples a, num_steps=4, eta=1',
      '0.75',
      '',
      'ddim, 4 steps, classifier_free 2, 1,437 of checkpoint 9, seed 0',
    ],
  ]


def test_a_run_ends_with_its_last_values_and_results():
  bits = {'metric': 'elbo', 'metrics': {'elbo': score(2.5, 'bits/dim') | {'error': 0.1}}}
  box = {'ode': score(-0.25, 'nats/dim, beyond the box too')}
  box |= {'ode_truncated': score(-0.5, 'nats/dim, within the box')}
  nats = {'metric': 'ode', 'metrics': box}
  read = {'metric': 'accuracy', 'metrics': {'accuracy': score(0.75, 'at t = 0.001')}}
  losses = {'metric': 'loss', 'metrics': {'loss': score(0.5)}, 'losses': {'loss': {}}}
  curves = {
    'loss': Curve([1, 2], [0.5, 0.25]),
    'learning_rate': Curve([1], [0.1]),
    'images_per_second': Curve([1, 2, 3], [1.0, 9.0, 2.0]),
    'tflops': Curve([1, 2, 3], [3.0, 1.0, 2.0]),
    'mfu': Curve([1, 2, 3], [0.3, 0.1, 0.2]),
  }
  scores = {'metrics': {'fid': score(3.0), 'loss': score(1.0)}}
  real = [('elbo-test', bits), ('ode-test', nats), ('accuracy-test', read), ('loss-test', losses)]
  found = [(name, x | {'examples': 12}) for name, x in real]
  found += [('samples', scores), ('samples-a', scores)]
  run = Record('a', {}, curves, [], found, [], unsaid=UNSAID)
  assert {name: value.text for name, value in results.final(run).items()} == {
    'bits/dim, ELBO test': '2.50\xa0±\xa00.10',
    'nats/dim, ODE test, beyond the box too': '-0.25',
    'nats/dim, ODE truncated test, within the box': '-0.5',
    'accuracy test, at t = 0.001': '0.75',
    'FID': '3',
    'loss': '1',
    'FID, samples a': '3',
    'loss, samples a': '1',
    'images per second': '2',
    'speed of a device': '2 TFLOP/s',
    'MFU': '0.2',
  }


def test_scores_on_real_examples_are_a_table_with_their_units():
  bits = {'metric': 'elbo', 'metrics': {'elbo': score(1.5, 'bits/dim')}, 'random_steps': 20}
  box = {'ode': score(1.0, 'nats/dim, beyond the box too')}
  box |= {'ode_truncated': score(0.5, 'nats/dim, within the box')}
  nats = {'metric': 'ode', 'metrics': box}
  found = [('elbo-test-mine', bits), ('ode-validation', nats)]
  [table] = results.parts(run_of([(name, x | {'examples': 1200}) for name, x in found]))
  assert isinstance(table, results.Table) and table.rows == [
    ['evaluation', 'value', 'images', 'about'],
    ['ELBO test mine', '1.5', '1,200', 'bits/dim, 20 random steps'],
    ['ODE validation', '1', '1,200', 'nats/dim, beyond the box too'],
    ['ODE truncated validation', '0.5', '1,200', 'nats/dim, within the box'],
  ]


def test_scores_of_pairs_say_their_draws_and_what_exact_draws_have():
  drawn = {'samples': {'sampling': {'num_samples': 1000}}}
  known, long = '0.9481 of exact draws, 1,000 for each pair', 60 * 'x'
  scores = {'picp': score(0.97, known), 'fd': score(1.0, long)}
  found = {'metric': 'regression', 'metrics': scores, 'protocol': drawn, 'split': 'test'}
  settings = {'settings': {'sampling': {'checkpoint': '200'}}, 'pairs': 44}
  run = run_of([('regression-test', found | settings)])
  added = 'of 1,000 draws, checkpoint=200, for 44 test pairs'
  assert results.final(run) == {
    f'picp {added}': results.Value('0.97', known),
    f'FD {added}': results.Value('1'),
  }
  assert results.final(run._replace(sampled=200)).keys() == {
    f'{name} of 1,000 draws, for 44 test pairs' for name in ('picp', 'FD')
  }


def test_losses_are_a_table_of_denoisers_and_quarters():
  """The table leaves out classes, which are in the file; a quarter without draws is empty."""
  network = {'all': score(0.5), 't 0 to 1/4': score(0.7), 'class #0': score(9.0)}
  losses = {'loss': network, 'nothing_learnt': {'all': score(1.0)}}
  (table,) = results.parts(run_of([('loss-test', {'losses': losses})]))
  assert isinstance(table, results.Table) and table.caption.endswith('loss test')
  assert table.rows == [
    ['', 'all', 't 0 to 1/4'],
    ['loss', '0.5', '0.7'],
    ['nothing learnt', '1', ''],
  ]

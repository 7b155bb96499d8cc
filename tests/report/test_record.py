"""A run folder is read for its report, damaged files too."""

import json

import numpy as np
import pytest

from diffusion_jax.report import record
from diffusion_jax.report.record import Curve


def test_damaged_lines_and_numbers_are_no_points(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  lines = [
    '{"step": 1, "loss": 2.0, "note": "text"}',
    '{"step": 2, "loss": NaN, "error": 1}',
    '["no", "object"]',
    '{"loss": 9.0}',
    '{"step": 3, "loss": 1.0}',
    '{"step": 4, "lo',
  ]
  path.write_text('\n'.join(lines))
  assert record.read_curves(path) == {'loss': ([1, 3], [2.0, 1.0]), 'error': ([2], [1])}
  assert record.read_curves(tmp_path / 'none') == {}


@pytest.mark.parametrize(
  'sampled, sentence',
  [
    (20, 'the test loss has risen from 1 to 3: sampling uses step 20, and not the last one, 30'),
    (10, 'sampling uses step 10, and not the last one, 30'),  # which has no test loss
    (30, ''),
    (None, ''),
  ],
)
def test_a_record_says_which_step_is_sampled(sampled, sentence):
  curves = {'loss': Curve([10, 30], [2.0, 1.0]), 'test_loss': Curve([20, 30], [1.0, 3.0])}
  run = record.Record('run', {}, curves, [], [], [], sampled=sampled)
  assert run.chosen == sentence
  at = {10: (2.0, None), 20: (2.0, 1.0)}.get(sampled, (1.0, 3.0))
  assert tuple(curve.at(sampled) for curve in curves.values()) == at


def test_sheets_are_in_the_order_of_their_steps(tmp_path):
  for name in ('step_9.png', 'step_00000010.png', 'step_x.png', 'samples.png'):
    (tmp_path / name).touch()
  found = record.read_sheets(tmp_path)
  assert [(step, path.name) for step, path in found] == [
    (9, 'step_9.png'),
    (10, 'step_00000010.png'),
  ]


def test_a_folder_elsewhere_is_not_read(tmp_path):
  """A link to / would take every JSON file of the machine."""
  run, out = tmp_path / 'run', tmp_path / 'out'
  for folder in (run / 'evaluation', out):
    folder.mkdir(parents=True)
  (out / 'result.json').write_text('{"metrics": {}}')
  (out / 'step_1.png').touch()
  (run / 'evaluation' / 'link').symlink_to(out)
  (run / 'samples').symlink_to(out)
  found = record.read('run', run, {})
  assert not found.results and not found.sheets


def test_results_are_found_at_any_depth(tmp_path):
  for name, text in {
    'elbo-test/result.json': json.dumps({'metric': 'elbo'}),
    'samples-a/sweep.json': json.dumps({'points': []}),
    'samples-a/num_steps=4/result.json': json.dumps({'metrics': {}}),
    'samples-b/result.json': '{"half',
    'one-0123abcd/result.json': json.dumps({'n': 1}),
    'two-0123abcd/result.json': json.dumps({'n': 2}),  # a name of two is not short
    'two-89abcdef/result.json': json.dumps({'n': 3}),
    'elbo-test/settings.json': '{"not": "a result"}',
  }.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  assert dict(record.read_results(tmp_path)) == {
    'elbo-test': {'metric': 'elbo'},
    'samples-a': {'points': []},
    'samples-a/num_steps=4': {'metrics': {}},
    'one': {'n': 1},
    'two-0123abcd': {'n': 2},
    'two-89abcdef': {'n': 3},
  }


def test_losses_of_exact_denoisers_are_read_or_left_out(tmp_path):
  path = tmp_path / 'loss_floors.json'
  losses = {'test_simple': {'linear': {'value': 0.1, 'error': 0.02}}}
  path.write_text(json.dumps({'losses': losses}))
  assert record.read('run', tmp_path, {}).floors == {'test_simple': {'linear': (0.1, 0.02)}}
  losses['test_simple']['linear'] = {'value': None, 'error': None}
  path.write_text(json.dumps({'losses': losses}))
  assert np.isnan(record.read('run', tmp_path, {}).floors['test_simple']['linear']).all()
  damaged = '3', '[]', '{"a": 3}', '{"a": {"linear": 3}}', '{"a": {"linear": {"value": "?"}}}'
  for text in ('{"half', '[]', '{}', *(f'{{"losses": {losses}}}' for losses in damaged)):
    path.write_text(text)
    assert record.read('run', tmp_path, {}).floors == {}

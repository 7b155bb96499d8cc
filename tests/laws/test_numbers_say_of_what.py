"""Law: two numbers of one name, on a page or a card, are of the same conditions.

Results that agree but for the checkpoint, the examples or the number of samples have other
names in tables, tiles and the comparison of runs, and other words on the card. Planted faults:
`results.named` without the checkpoint; `results.examples_of` returns []; `results.final` without
the number of samples; a card without `examples_of`.
"""

import copy
import itertools

import pytest

from diffusion_jax.report import card, results
from diffusion_jax.report.charts import Chart
from diffusion_jax.report.record import Record
from diffusion_jax.runtime.files import write_summed

SCORE = {'value': 0.5, 'error': 0.1, 'note': ''}
DRAWN = {'weights': 1, 'sampling': {'checkpoint': '44', 'num_samples': 70, 'seed': 0}}
REAL = {'weights': 1, 'sampling': {'checkpoint': '44'}, 'evaluation': {'split': 'test'}}
KINDS = {
  'fd': {
    'metric': 'fd',
    'metrics': {'fd_digits': SCORE},
    'settings': {**DRAWN, 'evaluation': {'reference': 'train'}},
    'protocol': {'samples': DRAWN},
  },
  'sbc-test': {
    'metric': 'sbc',
    'metrics': {'sbc': SCORE},
    'settings': {**DRAWN, 'evaluation': {'split': 'test'}},
    'split': 'test',
    'pairs': 9,
    'protocol': {'samples': DRAWN},
  },
  'elbo-test': {'bits_per_dim': 2.0, 'split': 'test', 'images': 9, 'settings': REAL},
  'loss-test': {'losses': {'loss': {'all': SCORE}}, 'split': 'test', 'images': 9, 'settings': REAL},
}
CHANGES = {
  'checkpoint': ('40', ['settings', 'sampling'], ['protocol', 'samples', 'sampling']),
  'num_samples': (80, ['settings', 'sampling'], ['protocol', 'samples', 'sampling']),
  'pairs': (8, []),
  'reference': ('test', ['settings', 'evaluation']),
  'split': ('validation', ['settings', 'evaluation'], []),
  'other_data': ({'name': 'folder'}, []),
}


def changed(kind, change):
  """Returns a result with another value of a field, or None if it has no such field."""
  value, *places = CHANGES[change]
  found, has = copy.deepcopy(KINDS[kind]), change == 'other_data'
  for place in places:
    section = found
    for name in place:
      section = section.get(name, {})
    if change in section or change == 'other_data':
      section[change], has = value, True
  return found if has else None


PAIRS = [
  (kind, change)
  for kind, change in itertools.product(KINDS, CHANGES)
  # The name of a folder has the split of real examples.
  if changed(kind, change) and not (change == 'split' and kind in ('elbo-test', 'loss-test'))
]


def run_of(name, kind, content):
  return Record(name, {}, {}, [], [(kind, content)], [], sampled=44)


@pytest.mark.parametrize('kind, change', PAIRS)
def test_other_conditions_have_other_names(kind, change, tmp_path):
  pair = KINDS[kind], changed(kind, change)
  runs = [run_of(str(i), kind, content) for i, content in enumerate(pair)]
  names = [{*results.final(run)} for run in runs]
  assert not names[0] & names[1]
  shown = [
    [x.title if isinstance(x, Chart) else (x.caption, *x.rows[1:]) for x in results.parts(run)]
    for run in runs
  ]
  assert shown[0] and shown[0] != shown[1]
  if change == 'checkpoint':  # of other weights, which a card leaves out
    return
  words = []
  for i, content in enumerate(pair):
    path = tmp_path / str(i) / 'evaluation' / kind / 'result.json'
    path.parent.mkdir(parents=True)
    write_summed(path, content)
    words.append([x.about for x in card.scores_of(tmp_path / str(i), 1)])
  assert words[0] != words[1] or not words[0]


@pytest.mark.parametrize('kind', KINDS)
def test_the_usual_conditions_are_not_said(kind):
  """These are the checkpoint that is sampled, and the training examples."""
  text = str([*results.final(run_of('a', kind, KINDS[kind]))])
  assert not any(word in text for word in ('checkpoint', 'against', 'other'))

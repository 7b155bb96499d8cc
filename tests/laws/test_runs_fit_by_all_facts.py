"""Law: a run reads another run, or data, only if their numbers mean the same, by every fact.

Facts are the fields of `Facts` and of its arrays; a new one is compared, or a row of ANOTHER is
missing here. DOORS has each field that names a run. Planted faults: `spec._pairs` without the
context; `spec.OF_EXAMPLES` with 'mean'; `other_runs.open_run` with 'context' always unread;
`check_start` without its loop.
"""

from typing import Any
from unittest import mock

import numpy as np
import pytest

from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import other_runs, roles, store
from diffusion_jax.app.kinds.latent.model import StoredAutoencoder
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.spec import OF_EXAMPLES, ArraySpec, Facts, misfits
from diffusion_jax.interop import stablehlo
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, refused, smoke, stored_run, trial
from tests.app.fields import within
from tests.app.kinds.test_classifier import classifier_smoke
from tests.app.small_network import SmallAutoencoder

NOWHERE = RunFolder.at('nowhere')
TABLE = Facts(
  ArraySpec(
    (2,), 0, mean=(1.0, 2.0), std=(3.0, 4.0), low=(-9.0, -9.0), high=(9.0, 9.0), names=('a', 'b')
  ),
  3,
  ArraySpec((2,), 0, (5.0, 6.0), (7.0, 8.0), names=('c', 'd')),
  ('u', 'v', 'w'),
)
# Another value of each fact; two values differ by order where they can.
ANOTHER: dict[str, Any] = {
  'shape': (4,),
  'levels': 9,
  'mean': (2.0, 1.0),
  'std': (4.0, 3.0),
  'low': (-8.0, -9.0),
  'high': (9.0, 8.0),
  'names': ('z', 'a'),
  'num_classes': 4,
  'class_names': ('v', 'u', 'w'),
  'skipped': ('1.png',),
  'examples': 7,
  'checksum': 'f',
  'lengths': (3, 4),
  'tokens': True,
  'kinds': ('number', 'date'),
  'decimals': ((1, 2), (2, 2)),
  'notations': ('', '1,000.5%'),
  'categories': (('p',), ('q',)),
  'knots': ((0.0,), (1.0,)),
  'shares': ((0.5,), (0.5,)),
  'manifold': 'angles',
  'gaps': True,
  'period': 3.0,
}
FACTS = [
  *(f'{array}.{name}' for array in ('x', 'context') for name in ArraySpec._fields),
  *(name for name in Facts._fields if name not in ('x', 'context')),
]
COMPARED = [path for path in FACTS if path.rpartition('.')[2] not in OF_EXAMPLES]


def other_than(facts, path, value=None):
  """Returns facts with another value of one of them."""
  section, _, name = path.rpartition('.')
  value = ANOTHER[name] if value is None else value
  if not section:
    return facts._replace(**{name: value})
  return facts._replace(**{section: getattr(facts, section)._replace(**{name: value})})


def config_of(facts, config):
  return store.completed(config.to_dict() | {'facts': facts.as_json()}, trusted=False)


def table(facts, **changes):
  """Returns the config of a run of a table, whose network reads labels and context."""
  read = within('conditioning', labels=True, context='auto', dropout=0.1)
  return config_of(facts, trial('vectors', **read | changes))


# Doors: (facts of the other run, of this run, a folder), UserError if they do not fit.


def guide(theirs, ours, place, section='guidance', config=None, name='autoguidance'):
  run = stored_run(place, table(theirs) if config is None else config)
  fields = within(f'sampling.{section}', name, run=run, scale=2.0)
  with mock.patch.object(other_runs, 'open_weights'):
    other_runs.guides_of(make_model(table(ours, **fields), NOWHERE, ours))


def sampler(theirs, ours, place):
  guide(theirs, ours, place, 'sampler', name='feynman_kac')


def classifier(theirs, ours, place):
  config = config_of(theirs, classifier_smoke())
  guide(theirs, ours, place, 'classifier', config, 'run')


def teacher(theirs, ours, place):
  fields = {'objective': 'reflow', 'training.teacher': stored_run(place, table(theirs))}
  other_runs.open_teacher(ConfiguredNetwork.of(table(ours, **fields), ours))


def start(theirs, ours, place):
  run = stored_run(place, table(theirs))
  other_runs.check_start(table(ours, **{'training.start.run': run}), ours)


def autoencoder(theirs, ours, place):
  small = f'{SmallAutoencoder.__module__}:SmallAutoencoder'
  run = stored_run(place, config_of(theirs, trial('digits_autoencoder', network=small)))
  config = trial('digits_latent', small=True, **{'latent.run': run})
  assert StoredAutoencoder(config, NOWHERE, ours).autoencoder


def data(theirs, ours, place):
  """Reads theirs, a CSV file, for a run of other facts."""
  (place / 'x.csv').write_text('a,b,c,d,e\n' + '1,2,3,4,u\n2,3,4,5,v\n1,3,5,7,w\n' * 2)
  path = place / 'x.csv'
  fields = within('data', 'csv', path=path, x='a,b', context='c,d', label='e')
  datasets.source_of(table(ours, **fields))


def reference(theirs, ours, place):
  """Reads theirs, the array x of an npz file, in place of the run's data."""
  x = np.random.default_rng(0).normal(size=(3, *theirs.x.shape))
  np.savez(place / 'x.npz', x=np.uint8(x) if theirs.x.levels else x)
  scorers.reference_source(make_model(table(ours), NOWHERE, ours), str(place / 'x.npz'))


def judge(theirs, ours, place, metrics='accuracy'):
  """Judges pictures by the exported classifier of another run."""
  out = place / 'judge'
  compute = lambda images: {'features': images[:, 0, 0], 'logits': images[:, 0, 0]}
  stablehlo.save_features(out, compute, 4, theirs)
  fields = within('evaluation', metrics=metrics, features='classifier', weights=out)
  model = make_model(config_of(ours, smoke(**fields)), NOWHERE, ours)
  scorers.check(model, scorers.of_samples(model))


PICTURES = DIGITS._replace(class_names=tuple('0123456789'))
STATISTICS = {f'{array}.{name}' for array in ('x', 'context') for name in ('mean', 'std')}
STATISTICS |= {'x.knots', 'x.shares', 'x.decimals', 'x.notations'}
OF_CONDITIONS = {x for x in FACTS if x.startswith('context')} | {'num_classes', 'class_names'}
# Each door: its function, the facts of both runs, and what the other run does not read.
DOORS = {
  'sampling.guidance.run': (guide, TABLE, set()),
  'sampling.sampler.run': (sampler, TABLE, set()),
  'sampling.classifier.run': (classifier, TABLE, {x for x in FACTS if x.startswith('context')}),
  'training.teacher': (teacher, TABLE, set()),
  'latent.run': (autoencoder, PICTURES, OF_CONDITIONS | {'x.levels', 'x.names'}),
  'data': (data, TABLE, STATISTICS),
  'evaluation.reference': (reference, TABLE, {*FACTS} - {'x.shape', 'x.levels'}),
  'evaluation.weights': (
    judge,
    PICTURES,  # which have no lengths
    {'lengths'} | {x for x in FACTS if '.' in x} - {'x.shape'},
  ),
}
OF_PICTURES = {'shape': (8, 8, 3), 'mean': (1.0,), 'std': (2.0,)}


def test_every_fact_is_compared_or_is_of_the_examples():
  """Facts that are not compared say which examples there are."""
  assert {path.rpartition('.')[2] for path in FACTS} == {*ANOTHER}
  assert OF_EXAMPLES == {'skipped', 'examples', 'checksum', 'low', 'high', 'gaps'}
  assert not [*misfits(TABLE, TABLE)]
  for path in FACTS:
    pairs = [(TABLE, other_than(TABLE, path)), (other_than(TABLE, path), TABLE)]
    found = [len([*misfits(*pair)]) for pair in pairs]
    assert found == ([1, 1] if path in COMPARED else [0, 0]), path


def test_what_one_of_two_sets_does_not_name_may_be_anything():
  for path in ('x.names', 'context.names', 'class_names'):
    unnamed = other_than(TABLE, path, ())
    assert not [*misfits(unnamed, TABLE)] and not [*misfits(TABLE, unnamed)]
  assert [*misfits(TABLE._replace(context=None), TABLE)][0] == ('shape of context', (), (2,))


def test_every_field_that_names_a_run_is_a_door():
  files = {'data', 'evaluation.reference', 'evaluation.weights'}
  assert {*DOORS} == {*roles.PREDECESSORS} - {'training.start.run'} | files


@pytest.mark.parametrize('name', DOORS)
def test_a_run_of_other_facts_is_refused(name, tmp_path, monkeypatch):
  # One fact is changed at a time, and so others may not belong to it.
  monkeypatch.setattr(datasets, 'check_facts', lambda facts: None)
  door, facts, unread = DOORS[name]
  door(facts, facts, tmp_path)
  for path in FACTS:
    if path.startswith('context') and facts.context is None:
      continue
    of_pictures = OF_PICTURES if facts is PICTURES else {}
    other = other_than(facts, path, of_pictures.get(path.rpartition('.')[2]))
    theirs, ours = (facts, other) if name == 'data' else (other, facts)
    if path in COMPARED and path not in unread:
      refused(f'config.{name}[:=]', door, theirs, ours, tmp_path)
    else:
      door(theirs, ours, tmp_path)


def test_a_guide_that_reads_no_condition_may_have_others(tmp_path):
  """A guide may be of data without conditions, and this run may not have those it reads."""
  none = TABLE._replace(context=None, num_classes=0, class_names=())
  free = config_of(none, trial('vectors', **within('conditioning', labels=False, dropout=0)))
  guide(none, TABLE, tmp_path, config=free)
  refused('shape of context is', guide, TABLE, TABLE._replace(context=None), tmp_path)


def test_features_of_a_classifier_may_be_of_other_classes(tmp_path):
  """Distances in them do not read its classes."""
  other = PICTURES._replace(class_names=PICTURES.class_names[::-1])
  judge(other, PICTURES, tmp_path, 'fd')
  refused("class 0 is '9', and here '0'", judge, other, PICTURES, tmp_path)


@pytest.mark.parametrize('path', ['x.names', 'context.names', 'class_names'])
def test_weights_of_columns_in_another_order_begin_no_training(path, tmp_path, capsys):
  """Weights of other data begin one, and a line says what differs."""
  start(TABLE, TABLE, tmp_path)
  assert not capsys.readouterr().out
  section, _, name = path.rpartition('.')
  names = getattr(getattr(TABLE, section) if section else TABLE, name)
  turned = other_than(TABLE, path, names[::-1])
  refused(f'have the same order|{path} are', start, turned, TABLE, tmp_path)
  start(other_than(TABLE, path, (*names[:-1], 'new')), TABLE, tmp_path)
  word = f'{"class" if not section else "column"} {len(names) - 1}'
  assert f'weights this run begins with, differ in {word}' in capsys.readouterr().out


def test_a_training_asks_before_it_begins(tmp_path, monkeypatch):
  """A training that has begun does not need the run."""
  asked = []

  class Asked(Exception):
    """Ends the training at the question."""

  def ask(config, facts):
    asked.append(facts)
    raise Asked

  monkeypatch.setattr(other_runs, 'check_start', ask)
  (tmp_path / 'x.csv').write_text('a,b\n' + '1,2\n3,5\n2,2\n' * 8)
  fields = within('data', 'csv', path=tmp_path / 'x.csv', x='a,b', test_fraction=0.1)
  for more in ({}, {'training.start': 'adapters', 'training.start.rank': 1}):
    begun = {'training.start.run': tmp_path} | more
    config = trial('vectors', **fields | begun)
    with pytest.raises(Asked):
      MODES['train'](config, tmp_path / 'run')
  assert [facts.x.names for facts in asked] == [('a', 'b')] * 2

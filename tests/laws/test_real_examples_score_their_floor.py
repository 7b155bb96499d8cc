"""Law: a perfect model scores what real examples score, in every metric of samples.

Samples that are real examples of the asked conditions are evaluated by the program: each score is
that of `evaluation.floor`, or the one of equal laws, and a training measures the same. So what
samples are conditioned on is mixed as the examples are that they are compared with, whatever the
frequencies and the order of these. Planted faults that this catches: classes in turn; the
frequencies of `train` where the reference is `test`; held-out conditions in the order of the file;
classes that are not those of the held-out contexts;
a floor, or held-out examples of `memorisation`, of other classes than the samples;
`training.metrics` with another rule than `evaluate`.
"""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks
from diffusion_jax.data import small_sets
from diffusion_jax.metrics import accuracy, estimates, features, table
from diffusion_jax.report.record import NUM_SAMPLES
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import make_mesh
from tests.app.conftest import of_run, printed_by, smoke, trial, untrained
from tests.app.fields import typed, within
from tests.rows import slow

# Of two classes, N(0, I) and N((4, 0), 0.09 I).
MEAN, STD = np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([1.0, 0.3])
WITH_FLOOR = 'fd', 'kid', 'pr', 'dc'
# Of the features of pictures, which vectors do not have.
OF_PICTURES = {'sfd', 'is', 'cmmd', 'accuracy'}
NUMBER = 600  # samples
# The shares of class 1 in both splits, fields of the evaluation, the classes of its samples in
# words, and the share of class 1 among them.
CASES = {
  'unlabelled': ((0.1, 0.1), '', '', 0.1),
  'labelled': ((0.1, 0.1), '', 'with the class frequencies of train', 0.1),
  'by test': ((0.3, 0.5), 'evaluation.reference=test', 'with the class frequencies of test', 0.5),
  'one class': ((0.1, 0.1), 'sampling.labels=1', 'of class 1', 1.0),
  'contexts': ((0.1, 0.1), '', '', 0.1),
  'contexts of classes': ((0.1, 0.1), '', 'with the classes, too, of held-out examples', 0.1),
}


def metrics_of(case):
  names = *WITH_FLOOR, 'memorisation', *table.OF_VALUES
  left_out = {
    'labelled': (),
    'by test': ('c2st', 'memorisation'),  # Its held-out examples are the reference.
    'one class': (*table.OF_VALUES,),  # It is far from the set of all, and only floors say how far.
  }.get(case, ('c2st',))  # which takes long
  return tuple(name for name in names if name not in left_out)


def config_of(case, folder, **changes):
  """Writes data whose examples are sorted by class; returns a config that reads them."""
  arrays, rng, path = {}, np.random.default_rng(0), folder / 'data.npz'
  for prefix, share, n in zip(('', 'test_'), CASES[case][0], (1500, 1200), strict=True):
    label = np.sort((rng.uniform(size=n) < share).astype(np.int32))
    x = MEAN[label] + STD[label, None] * rng.standard_normal((n, 2))
    arrays |= {f'{prefix}x': x, f'{prefix}label': label}
    if case.startswith('contexts'):
      arrays[f'{prefix}context'] = label[:, None] + 0.01 * rng.standard_normal((n, 1))
  np.savez(path, **arrays)
  has_classes, context = CASES[case][2] != '', 'vector' if case.startswith('contexts') else None
  fields = typed(f'data=npz data.path={path} data.num_classes={2 * has_classes}')
  fields |= within('conditioning', labels=has_classes, context=context)
  fields |= within('training', checkpoints__best=None)
  fields |= within('sampling', checkpoint='latest', batch_size=NUMBER)
  return trial('two_moons', **fields | changes)


def evaluation_of(case):
  fields = typed(CASES[case][1])
  fields |= within('evaluation', metrics=metrics_of(case))
  return fields | within('evaluation.kid', num_subsets=20, subset_size=200)


def perfect(model, *_, **__):
  """Returns what takes the place of `generate`: real examples of the conditions."""
  own = (np.random.default_rng(1).uniform(size=NUMBER) < 0.1).astype(int)
  noise = np.random.default_rng(2).standard_normal((NUMBER, 2))

  def draw(params, index, cond):
    labels = np.asarray(cond.get('label', own[index]))
    if 'context' in cond:
      of_context = np.rint(model.facts.context.decode(np.asarray(cond['context']))[:, 0])
      # No example has the context of another class: x of both is far from all.
      both = np.asarray(cond.get('label', of_context)) != of_context
      labels = np.where(both, 0, of_context).astype(int)
      return (
        model.facts.x.encode(MEAN[labels] + STD[labels, None] * noise[index] - 9 * both[:, None]),
        None,
        {},
      )
    return model.facts.x.encode(MEAN[labels] + STD[labels, None] * noise[index]), None, {}

  return Mock(side_effect=draw, start=lambda *args: lambda: draw(*args))


# `by test` has classes of other frequencies, and contexts of classes have contexts.
RARE = 'labelled', 'contexts'


@pytest.fixture(scope='module', params=[slow(x) if x in RARE else x for x in CASES])
def world(request, tmp_path_factory):
  """Returns a case, its run, the results of its evaluation, and what was printed."""
  case, folder = request.param, tmp_path_factory.mktemp('real')
  run = untrained(config_of(case, folder), folder / 'run')
  fields = evaluation_of(case) | within('evaluation', floor=True, num_generated=NUMBER)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sample, 'generate', perfect)
    patch.setattr(sample.conditions, 'encoded', lambda model, params, inputs: inputs)
    patch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    said = printed_by(MODES['evaluate'], of_run(run, **fields), run)
    found = [json.loads(path.read_text()) for path in run.glob('evaluation/*/result.json')]
    yield case, run, {x['metric']: x for x in found}, said


def test_every_metric_of_samples_is_tried():
  every = {*WITH_FLOOR, 'memorisation', *table.OF_VALUES}
  assert every | OF_PICTURES == {*table.OF_FILES, *table.OF_VALUES}


# Of equal laws, besides distances without a bias, which are 0: a new metric with one has a value.
USUAL = {'c2st': 0.5, 'closer_values': 0.5, 'copied_values': 0.0108}


def test_real_examples_score_their_floor(world):
  """Within 5 standard errors."""
  case, _, results, _ = world
  assert {*results} == {*metrics_of(case)}
  for name, found in results.items():
    scores, floor = found['metrics'], found.get('floor', {})
    assert bool(floor) == (name in WITH_FLOOR)
    for score, x in scores.items():
      if score.startswith('nearest'):  # `closer` compares these distances.
        continue
      usual = floor.get(score, {'value': USUAL.get(score, 0.0), 'error': 0.0})
      assert x['error'] is not None, f'{score} needs Estimate(value, error)'
      error = np.hypot(x['error'], usual['error'])
      assert abs(x['value'] - usual['value']) < 5.0 * error, (score, x, usual)


def test_the_samples_have_the_classes_that_are_said(world):
  case, run, results, said = world
  _, _, words, share = CASES[case]
  (path,) = run.glob('evaluation/drawn/samples*[0-9a-f].npz')
  with np.load(path) as drawn:
    x, labels = drawn['arr_0'], drawn['labels'] if words else None
  assert len(x) == NUMBER and abs(np.mean(x[:, 0] > 2.6) - share) < 0.06
  if labels is not None:
    # Both a half and the whole have the frequencies, of contexts those of random examples.
    most = 0.05 if case.startswith('contexts') else 0.02
    assert [abs(part.mean() - share) < most for part in (labels, labels[:300])] == [True, True]
  end = f', {words}' * bool(words)
  assert f'{NUMBER} samples of 5 steps are drawn{end} (evaluation.num_generated)' in said
  for found in results.values():
    assert found['protocol'].get('classes', '') == words * (case == 'one class')


def test_a_training_measures_the_same(world, tmp_path, monkeypatch):
  """The scores of training.metrics equal an evaluation of as many samples."""
  case, _, results, _ = world
  monkeypatch.setattr(hooks, 'generate', perfect)
  names = [name for name in metrics_of(case) if name != 'c2st']
  fields = evaluation_of(case) | {'evaluation.metrics': names, 'training.metrics.images': NUMBER}
  model: Any = make_model(config_of(case, tmp_path, **fields), RunFolder.at(tmp_path))
  hook, log = hooks.measuring(model, make_mesh(), (4,)), SimpleNamespace(results={})
  hook.act(4, SimpleNamespace(ema_params={}), {}, log)
  assert log.results.pop(NUM_SAMPLES) == NUMBER
  expected = {n: x['value'] for name in names for n, x in results[name]['metrics'].items()}
  assert {*log.results} == {*expected}
  for name, value in expected.items():
    assert_allclose(log.results[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def unequal_digits(folder):
  """Writes digits where 5 to 9 are rare; returns the images and labels of both splits."""
  images, labels = (np.concatenate(x) for x in zip(*map(digits_of, ('train', 'test')), strict=True))
  rng = np.random.default_rng(0)
  rows = rng.permutation(np.flatnonzero((labels < 5) | (rng.uniform(size=len(labels)) < 0.1)))
  parts = {'': rows[::2], 'test_': rows[1::2]}
  arrays = {
    f'{n}{k}': a[i] for n, i in parts.items() for k, a in (('x', images), ('labels', labels))
  }
  np.savez(folder / 'data.npz', **arrays)
  return arrays


def digits_of(split):
  arrays = small_sets.digits(split).read(np.arange(len(small_sets.digits(split))))
  return np.rint(arrays['x'] * (255 / 16)).astype(np.uint8), arrays['label']


def test_real_pictures_score_what_held_out_ones_do(tmp_path, monkeypatch):
  """The metrics of pictures: the judge's scores of held-out pictures with their own classes."""
  arrays = unequal_digits(tmp_path)
  test, labels = arrays['test_x'], arrays['test_labels']
  n = len(test)

  def asked(model, *_, **__):
    def draw(params, index, cond):
      # The next picture of each class, and after the last one the first again.
      before = [np.sum(cond['label'][:i] == c) for i, c in enumerate(cond['label'])]
      rows = [np.resize(np.flatnonzero(labels == c), j + 1)[j]
              for c, j in zip(cond['label'], before, strict=True)]  # fmt: skip
      return model.facts.x.encode(test[rows]), None, {}

    return Mock(side_effect=draw, start=lambda *args: lambda: draw(*args))

  monkeypatch.setattr(sample, 'generate', asked)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  data = typed(f'data=npz data.path={tmp_path}/data.npz data.num_classes=10')
  run = untrained(smoke(**data, **{'sampling.batch_size': n}), tmp_path / 'run')
  names = 'fd', 'is', 'cmmd', 'accuracy'
  fields = within('evaluation', metrics=names, features='digits', num_generated=n, floor=True)
  MODES['evaluate'](of_run(run, **fields), run)
  found = {}
  for path in run.glob('evaluation/*/result.json'):
    content = json.loads(path.read_text())
    found |= {
      name: (x, content.get('floor', {}).get(name)) for name, x in content['metrics'].items()
    }
  judged = features.make('digits').extract(test)
  usual = {
    'is_digits': accuracy.inception_score(judged['logits'])._asdict(),
    'accuracy_digits': estimates.mean(judged['predicted'] == labels)._asdict(),
  }
  assert {*found} == {'fd_digits', 'cmmd_digits', *usual}
  for name, (x, floor) in found.items():
    floor = floor or usual[name]
    error = np.hypot(x['error'], floor['error'])
    # The deviation over splits is not an error.
    error = error / 10**0.5 if name == 'is_digits' else error
    assert abs(x['value'] - floor['value']) < 4.5 * error, (name, x, floor)

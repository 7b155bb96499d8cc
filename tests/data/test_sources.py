import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffusion_jax.data import pipeline, small_sets, sources
from diffusion_jax.data.spec import ArraySpec


def test_importing_sources_is_light():
  """Only the module of tfds builders imports a heavy package at its top."""
  package = Path(sources.__file__).parents[1]
  heavy = 'grain|tensorflow_datasets|PIL|sklearn|scipy|requests'
  found = {
    (name, path.stem)
    for path in (*package.glob('data/*.py'), *package.glob('demos/*.py'))
    for name in re.findall(rf'^(?:from|import) ({heavy})\b', path.read_text(), re.M)
  }
  assert found == {('tensorflow_datasets', 'builders')}


def test_two_levels_are_the_halves_of_any_others():
  whole = small_sets.digits('test')
  halves = sources.Binarized(whole, 'threshold')
  index = np.array([5, 0, 7])
  images, labels = halves.read(index).values()
  expected, same = whole.read(index).values()
  np.testing.assert_array_equal(images, np.where(expected > 8, 1, 0))
  np.testing.assert_array_equal(labels, same)
  assert images.dtype == np.uint8 and halves.facts.x.levels == 2
  assert (len(halves), halves.facts.x.shape) == (360, (8, 8, 1))
  assert halves.facts.num_classes == 10 and halves.in_memory
  every = sources.ArraySource(np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1))
  images = sources.Binarized(every, 'threshold').read(np.arange(256))['x']
  np.testing.assert_array_equal(images.ravel(), np.repeat([0, 1], 128))


def test_binarized_images_are_drawn_once_and_anew_in_each_epoch():
  """Each pixel is 1 with the probability grey level / highest level."""
  whole = small_sets.digits('test')
  source = sources.Binarized(whole)
  index = np.array([5, 0, 7, 5])
  x, labels = source.read(index).values()
  np.testing.assert_array_equal(x, source.read(index)['x'])
  np.testing.assert_array_equal(x[0], x[3])
  np.testing.assert_array_equal(labels, whole.read(index)['label'])
  assert x.dtype == np.uint8 and source.facts.x.levels == 2
  assert (len(source), source.facts.x.shape) == (360, (8, 8, 1))
  draws = 4000
  rows = np.full(draws, 7)
  drawn = source.redrawn(3, np.arange(draws)).read(rows)['x']
  p = whole.read(index)['x'][2] / 16
  deviation = np.sqrt(p * (1 - p) / draws)
  assert np.abs(drawn.mean(axis=0) - p).max() > 0  # random
  assert np.all(np.abs(drawn.mean(axis=0) - p) <= 4.5 * deviation)
  pairs = drawn.reshape(draws, -1)[:, (0 < p.ravel()) & (p.ravel() < 1)]
  correlation = np.corrcoef(pairs.T) - np.eye(pairs.shape[1])
  assert np.abs(correlation).max() < 5 / np.sqrt(draws)  # pixels, and epochs
  other = source.redrawn(4, np.arange(draws)).read(rows)['x']
  assert not np.array_equal(drawn, other)


def test_batches_of_binarized_images_follow_from_seed_and_epoch():
  """A host reads its rows of the whole batch, over an epoch's end."""
  source = sources.Binarized(small_sets.digits('test'))
  whole = pipeline.batch_at(source, 100, 0, 3)['x']
  assert set(np.unique(whole)) == {-1, 1}
  part = pipeline.batch_at(source, 100, 0, 3, rows=slice(50, 75))['x']
  np.testing.assert_array_equal(part, whole[50:75])
  epochs = [
    np.concatenate([pipeline.batch_at(source, 90, 0, 4 * e + i)['x'] for i in range(4)])
    for e in range(2)
  ]
  grey = source.source.read(np.arange(360))['x']
  ones = [int(np.sum(x > 0)) for x in epochs]
  assert ones[0] != ones[1]
  np.testing.assert_allclose(ones, np.sum(grey / 16.0), rtol=0.02)


def numbers(size=200, **fields):
  """Returns a source of vectors in odd units, with a context [4, 2]."""
  rng = np.random.default_rng(0)
  x = 1e3 + 1e-3 * rng.normal(size=(size, 3))
  context = rng.gamma(2.0, size=(size, 4, 2))
  return sources.ArraySource(x, context=context, **fields)


def test_statistics_are_those_of_the_last_axis():
  """They are measured on all examples, or on 10,000 of them."""
  source = numbers()
  assert source.facts.x == ArraySpec((3,))  # not yet measured
  facts = sources.measured(source)
  x, context = np.float64(source.x), source.context.reshape(-1, 2)
  np.testing.assert_allclose(facts.x.mean, x.mean(axis=0), rtol=1e-12)
  np.testing.assert_allclose(facts.x.std, x.std(axis=0), rtol=1e-6)
  assert facts.context is not None
  np.testing.assert_allclose(facts.context.mean, context.mean(axis=0))
  np.testing.assert_allclose(facts.context.std, context.std(axis=0))
  read = []

  class Large(sources.ArraySource):
    def read(self, index):
      read.append(index)
      return super().read(index)

  sources.measured(Large(np.random.default_rng(0).normal(size=(30_001, 1))))
  (index,) = read
  assert len({*index}) == 10_000 and (index[0], index[-1]) == (0, 30_000)
  digits = small_sets.digits()
  assert sources.measured(digits) == digits.facts  # levels need no statistics


def test_a_checksum_is_of_all_that_is_stored(monkeypatch):
  """Of any array, its labels and conditions; of large ones, of some rows."""
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, (200, 4), np.uint8)
  label, context = np.arange(200) % 3, rng.normal(size=(200, 2))

  def checksum(i=None, name=''):
    arrays = {'x': x.copy(), 'label': label.copy(), 'context': context.copy()}
    if i is not None:
      arrays[name][i] = arrays[name][i - 1] // 2
    return sources.checksum(sources.ArraySource(num_classes=3, **arrays))

  first = checksum()
  assert first == checksum() and len(first) == 16
  changed = [checksum(*at) for at in ((7, 'x'), (7, 'label'), (7, 'context'))]
  assert len({first, *changed}) == 4
  assert sources.checksum(sources.ArraySource(x[:120])) != sources.checksum(sources.ArraySource(x))
  whole = sources.ArraySource(x)
  binarized = sources.Binarized(whole, 'threshold')
  assert sources.checksum(binarized) == sources.checksum(whole)
  monkeypatch.setattr(sources, 'MOST_SUMMED', 4 * 50)
  some = checksum()
  assert some == checksum(2, 'x') and some != checksum(199, 'x')
  assert not sources.checksum(object())  # which draws its examples


def test_constructors_state_their_facts():
  shape = sources.facts_of_fields((8, 8, 3), 4, path='x')
  assert shape == sources.pictures((8, 8, 3), 4)
  mark = sources.states(lambda **fields: fields)
  assert mark(lambda: None).stated_facts(a=1) == {'a': 1}


def test_facts_in_json_have_a_context_only_if_there_is_one():
  plain = small_sets.digits().facts.as_json()
  assert {*plain} == {'x', 'num_classes'} and plain['num_classes'] == 10
  facts = numbers().facts.as_json()
  assert facts['context']['shape'] == (4, 2) and facts['x']['levels'] == 0


def test_batches_of_numbers_are_standardised_by_the_facts():
  """Those that are given, such as a run's, or else they stay as they are."""
  source = numbers()
  facts = sources.measured(source)
  read = source.read(np.arange(4))
  assert sources.check_examples(read, facts) is read
  batch = pipeline.batch_at(source, 8, 0, 3, facts=facts)
  plain = pipeline.batch_at(source, 8, 0, 3)
  assert batch['x'].dtype == batch['context'].dtype == np.float32
  assert facts.context is not None
  index = np.random.default_rng((0, 0, 0)).permutation(200)[24:32]
  x, context = source.x[index], source.context[index]
  np.testing.assert_allclose(batch['x'], (x - facts.x.mean) / facts.x.std, atol=2e-6)
  np.testing.assert_allclose(
    batch['context'], (context - facts.context.mean) / facts.context.std, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(plain['context'], np.float32(context))
  half = pipeline.batch_at(source, 8, 0, 3, rows=slice(2, 4), facts=facts)
  np.testing.assert_array_equal(half['x'], batch['x'][2:4])


def test_digits_are_scikit_learns_split_once_and_for_all():
  train, test = small_sets.digits('train'), small_sets.digits('test')
  assert len(train) == 1437 and len(test) == 360
  assert train.facts.x.shape == (8, 8, 1)
  assert (train.facts.num_classes, train.facts.x.levels) == (10, 17)
  assert train.x.dtype == np.uint8 and train.x.max() == 16
  data: Any = load_digits()
  pairs = lambda images, labels: sorted(
    (image.astype(int).tobytes(), label) for image, label in zip(images, labels, strict=True)
  )
  found = pairs(train.x[..., 0], train.label) + pairs(test.x[..., 0], test.label)
  assert sorted(found) == pairs(data.images, data.target)  # none is altered
  assert set(train.label) == set(test.label) == set(range(10))


def test_turned_digits_are_a_quarter_further_anticlockwise():
  """The top row becomes the left column, from the bottom to the top."""
  upright, turned = small_sets.digits(), small_sets.digits(quarter_turns=1)
  np.testing.assert_array_equal(turned.x[:, ::-1, 0], upright.x[:, 0])
  np.testing.assert_array_equal(turned.label, upright.label)


@pytest.mark.parametrize('shape', [(32, 32, 3), (8, 16, 1)])
def test_synthetic_pictures(shape):
  train, test = (small_sets.synthetic(s, shape, 4, 40) for s in ('train', 'test'))
  assert train.x.shape == (40, *shape) and train.x.dtype == np.uint8
  assert np.bincount(train.label).tolist() == [10] * 4
  again = small_sets.synthetic('train', shape, 4, 40)
  np.testing.assert_array_equal(train.x, again.x)
  assert (train.x != test.x).any()

"""Sources of arrays have the statistics and checksums of their examples."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.data import between, npz, pipeline, small_sets, sources, splits
from diffusion_jax.data.spec import ArraySpec, Facts


def test_two_levels_are_the_halves_of_any_others():
  whole = small_sets.digits('test')
  halves = sources.Binarized(whole, 'threshold')
  index = np.array([5, 0, 7])
  images, labels = halves.read(index).values()
  expected, same = whole.read(index).values()
  assert_array_equal(images, np.where(expected > 8, 1, 0))
  assert_array_equal(labels, same)
  assert images.dtype == np.uint8 and halves.in_memory
  assert halves.facts == Facts(ArraySpec((8, 8, 1), 2), 10) and len(halves) == 360
  every = sources.ArraySource(np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1))
  images = sources.Binarized(every, 'threshold').read(np.arange(256))['x']
  assert_array_equal(images.ravel(), np.repeat([0, 1], 128))


def test_binarized_images_are_drawn_once_and_anew_in_each_epoch():
  """Each pixel is 1 with the probability grey level / highest level."""
  whole = small_sets.digits('test')
  source = sources.Binarized(whole)
  index = np.array([5, 0, 7, 5])
  x, labels = source.read(index).values()
  assert_array_equal(x, source.read(index)['x'])
  assert_array_equal(x[0], x[3])
  assert_array_equal(labels, whole.read(index)['label'])
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
  assert not np.array_equal(drawn, source.redrawn(4, np.arange(draws)).read(rows)['x'])


def numbers(size=200, **fields):
  """Returns a source of vectors in odd units, with a context [4, 2]."""
  rng = np.random.default_rng(0)
  x = 1e3 + 1e-3 * rng.normal(size=(size, 3))
  return sources.ArraySource(x, context=rng.gamma(2.0, size=(size, 4, 2)), **fields)


def test_statistics_are_those_of_the_last_axis():
  source = numbers()
  assert source.facts.x == ArraySpec((3,))  # not yet measured
  facts = sources.measured(source)
  x, context = np.float64(source.x), source.context.reshape(-1, 2)
  assert_allclose(facts.x.mean, x.mean(axis=0), rtol=1e-12)
  assert_allclose(facts.x.std, x.std(axis=0), rtol=1e-6)
  assert_allclose(facts.context.mean, context.mean(axis=0))
  assert_allclose(facts.context.std, context.std(axis=0))
  digits = small_sets.digits()
  assert sources.measured(digits) == digits.facts  # levels need no statistics


@pytest.mark.parametrize('period', [2, 3, 4, 7, 10])
@pytest.mark.parametrize('wrap', ['memory', 'part', 'disk'])
def test_statistics_see_rows_that_come_in_turn(period, wrap, tmp_path):
  """Statistics see all rows of a source in memory, and 10,000 random rows of one on disk."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(10_000 * period, 1))
  x[::period] += 100.0
  if wrap == 'disk':
    np.save(tmp_path / 'x.npy', x)
    source = npz.npz(tmp_path)
    assert not source.in_memory
  else:
    source = sources.ArraySource(x)
    source = source if wrap == 'memory' else splits.Part(source, np.arange(len(x)))
  facts = sources.measured(source)
  atol = 2.5 if wrap == 'disk' else 1e-9  # 5 standard errors of 10,000 rows
  assert_allclose([*facts.x.mean, *facts.x.std], [x.mean(), x.std()], 0, atol)
  index = sources.some_of(source, 10_000)
  assert len({*index}) == 10_000 and np.all(np.diff(index) > 0) and index[-1] > 0.99 * len(x)
  assert abs(np.mean(index % period == 0) - 1 / period) < 4.5 * 0.005
  assert_array_equal(index, sources.some_of(source, 10_000))


class Given(sources.ArraySource):
  """Examples whose mean and std their author gives."""

  units = (1.0, 2.0), (4.0, 0.5)

  @property
  def facts(self):
    mean, std = self.units
    return super().facts._replace(x=ArraySpec(self.x.shape[1:], mean=mean, std=std))


@pytest.mark.parametrize('units', [((1.0, 2.0), (4.0, 0.5)), ((0.0,), (1.7,))])
def test_a_source_that_gives_its_units_keeps_them(units, monkeypatch):
  monkeypatch.setattr(Given, 'units', units)
  x = np.random.default_rng(0).normal(size=(50, 7, 2))
  facts = sources.measured(Given(x))
  assert (facts.x.mean, facts.x.std) == units
  batch = pipeline.batch_at(Given(x), 50, 0, 0, facts=facts)
  order = np.random.default_rng((0, 0, 0)).permutation(50)
  assert_allclose(batch['x'], (x[order] - units[0]) / units[1], atol=1e-6)
  with pytest.raises(ValueError, match='one_scale=True is for .* x comes with its mean and std'):
    sources.measured(Given(x), one_scale=True)


@pytest.mark.parametrize(
  'units, message',
  [
    (((0.0, 0.0), (1.0, 0.0)), r'x: std\[1\] must be a number in \(0, inf\)'),
    (((0.0, np.nan), (1.0, 1.0)), r'x: mean\[1\] must be a number'),
    (((0.0,), (1.0, 1.0)), 'x: mean has 1 and std 2 numbers'),
    (((0.0,) * 3, (1.0,) * 3), 'x: mean has 3 and std 3 numbers, the last axis of x 2'),
  ],
)
def test_units_that_no_data_have_are_refused(units, message, monkeypatch):
  monkeypatch.setattr(Given, 'units', units)
  with pytest.raises(ValueError, match=message):
    sources.measured(Given(np.random.default_rng(0).normal(size=(5, 2))))


def test_points_with_one_scale_keep_the_ratios_of_their_distances():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 5, 3)) * [1.0, 3.0, 0.1] + [4.0, -2.0, 9.0]
  spec = sources.measured(sources.ArraySource(x), one_scale=True).x
  flat = x.reshape(-1, 3)
  scale = np.sqrt(((flat - flat.mean(axis=0)) ** 2).mean())
  assert_allclose(spec.mean, flat.mean(axis=0))
  assert_allclose(spec.std, [scale] * 3)
  seen = spec.encode(x)
  assert_allclose(np.mean(seen**2), 1.0, rtol=1e-5)
  distances = [np.linalg.norm(z[:, :1] - z[:, 1:], axis=-1) for z in (x, seen)]
  assert_allclose(distances[1], distances[0] / scale, rtol=1e-5)
  flat = x * [1.0, 0.0, 1.0]  # points in a plane
  assert sources.measured(sources.ArraySource(flat), one_scale=True).x.std[1] > 0
  with pytest.raises(ValueError, match='never changes at 1'):
    sources.measured(sources.ArraySource(flat))
  with pytest.raises(ValueError, match='never changes at 0'):
    sources.measured(sources.ArraySource(0 * flat), one_scale=True)
  with pytest.raises(ValueError, match='for real numbers .*, and x has 17 levels'):
    sources.measured(small_sets.digits(), one_scale=True)


def test_categories_stay_0_and_1_with_one_scale():
  x = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 9.0], [1.0, 0.0, 7.0]])
  source = sources.ArraySource(x, x_names=('a=u', 'a=v', 'b'))
  spec = sources.measured(source, one_scale=True).x
  assert spec.mean == (0.0, 0.0, 7.0)
  assert_allclose(spec.std, (1.0, 1.0, float(np.std([5, 9, 7]))))


@pytest.mark.parametrize('kind', [np.float16, np.float32, np.float64])
def test_numbers_of_any_float_are_measured_in_float64(kind):
  x = np.random.default_rng(0).normal(size=(300, 2)).astype(kind)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    spec = sources.measured(sources.ArraySource(x, low=(-1e6,) * 2, high=(1e6,) * 2)).x
  assert_allclose(spec.mean, np.float64(x).mean(axis=0), rtol=1e-12)
  assert_allclose(spec.std, np.float64(x).std(axis=0), rtol=1e-12)


def test_whole_numbers_of_any_size_change():
  """Ids and times in nanoseconds are far from 0, and exact."""
  ids = 9_000_000_000_000_000 + np.arange(60)
  spec = sources.measured(sources.ArraySource(ids[:, None] * 1.0)).x
  exact = [Fraction(int(i)) for i in ids]
  mean = sum(exact) / 60
  assert spec.mean == (float(mean),)
  assert_allclose(spec.std, [float(sum((i - mean) ** 2 for i in exact) / 60) ** 0.5], rtol=1e-12)
  assert_array_equal(spec.decode(spec.encode(ids[:, None])), ids[:, None])


def test_a_unit_that_float32_lacks_is_refused():
  x = np.random.default_rng(0).normal(size=(50, 1))
  spec = sources.measured(sources.ArraySource(1e-36 * x)).x
  assert_allclose(spec.std, 1e-36 * x.std(), rtol=1e-12)
  with pytest.raises(ValueError, match='x has a standard deviation of .*e-301: take a unit'):
    sources.measured(sources.ArraySource(1e-300 * x))


def test_numbers_that_change_in_one_row_change():
  x = np.zeros((20_001, 2))
  x[:, 0], x[1, 1] = np.arange(20_001), 1.0
  assert_allclose(sources.measured(sources.ArraySource(x)).x.std, x.std(axis=0))
  x[1, 1] = np.nan
  with pytest.raises(ValueError, match='x has numbers that are not finite'):
    sources.measured(sources.ArraySource(x))


def test_a_checksum_is_of_all_that_is_stored():
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
  assert sources.checksum(sources.Binarized(whole, 'threshold')) == sources.checksum(whole)
  assert not sources.checksum(object())  # which draws its examples


def test_batches_of_numbers_are_standardised_by_the_facts():
  source = numbers()
  facts = sources.measured(source)
  read = source.read(np.arange(4))
  assert sources.check_examples(read, facts) is read
  batch = pipeline.batch_at(source, 8, 0, 3, facts=facts)
  plain = pipeline.batch_at(source, 8, 0, 3)
  assert batch['x'].dtype == batch['context'].dtype == np.float32
  index = np.random.default_rng((0, 0, 0)).permutation(200)[24:32]
  x, context = source.x[index], source.context[index]
  assert_allclose(batch['x'], (x - facts.x.mean) / facts.x.std, atol=2e-6)
  assert_allclose(
    batch['context'], (context - facts.context.mean) / facts.context.std, rtol=1e-5, atol=1e-6
  )
  assert_array_equal(plain['context'], np.float32(context))


def test_labels_are_read_without_the_examples(monkeypatch):
  """Sources that wrap others have it too; a source without it reads its examples."""
  whole = small_sets.digits('test')
  expected = whole.read(np.arange(360))['label']
  rows = np.arange(5, 300, 7)
  wrapped = sources.Binarized(splits.Part(between.Between(whole, whole), rows))
  assert_array_equal(sources.labels_of(whole), expected)

  class Plain:
    facts, read, __len__ = whole.facts, whole.read, lambda self: 360

  assert_array_equal(sources.labels_of(Plain()), expected)
  assert sources.labels_of(sources.ArraySource(np.zeros((3, 2)))) is None
  monkeypatch.setattr(sources.ArraySource, 'read', None)
  assert_array_equal(sources.labels_of(wrapped), expected[rows])


@pytest.mark.parametrize('seed', range(4))
def test_the_first_classes_have_the_frequencies_of_all(seed):
  """Each class is within 2 of its share, also of the first m; multiples of all are exact."""
  rng = np.random.default_rng(seed)
  counts = rng.integers(0, 100, size := rng.integers(2, 40)) * (rng.random(size) < 0.8)
  counts[0] += 1
  total, share = counts.sum(), counts / counts.sum()
  for n in (1, 7, 200, 3 * total):
    labels = sources.in_proportion(counts, n)
    assert labels.shape == (n,) and labels.dtype == np.int32
    so_far = np.cumsum(np.eye(len(counts))[labels], axis=0)
    assert np.abs(so_far - np.arange(1, n + 1)[:, None] * share).max() < 2.0
    assert_array_equal(labels, sources.in_proportion(counts, 2 * n)[:n])
  assert_array_equal(np.bincount(labels, minlength=len(counts)), 3 * counts)


def test_rare_classes_are_not_late():
  """8,000 classes of one example each have their share of few samples, wherever they are."""
  counts = np.repeat([1000, 1, 1000], [5, 8000, 5])
  rare = counts == 1
  for n, error in ((100, 0.02), (1000, 0.002)):
    assert abs(rare[sources.in_proportion(counts, n)].mean() - 8000 / 18_000) < error


def test_classes_of_equal_counts_are_all_there_before_one_is_again():
  labels = sources.in_proportion(np.full(7, 5000), 70).reshape(10, 7)
  assert_array_equal(np.sort(labels), np.tile(np.arange(7), (10, 1)))


@pytest.mark.parametrize('tokens', [False, True])
def test_a_level_is_below_their_number(tokens):
  """Of pictures with few levels, and of tokens."""
  x = np.array([[3, 4], [0, 1]], np.uint8)
  facts = sources.ArraySource(x, levels=5, tokens=tokens).facts
  assert facts.x.levels == 5
  with pytest.raises(ValueError, match=r'x has the level 4, and its levels are 0\.\.3'):
    sources.check_examples({'x': x}, facts._replace(x=facts.x._replace(levels=4)))

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffusion_jax.data import sources


def test_digits_are_scikit_learns_split_once_and_for_all():
  train, test = sources.digits('train'), sources.digits('test')
  assert len(train) == 1437 and len(test) == 360
  assert train.image_shape == (8, 8, 1)
  assert (train.num_classes, train.num_levels) == (10, 17)
  assert train.images.dtype == np.uint8 and train.images.max() == 16
  both = np.concatenate([train.images, test.images])[..., 0]
  data: Any = load_digits()
  original = data.images
  order = lambda images: sorted(image.astype(int).tobytes() for image in images)
  assert order(both) == order(original)  # every picture once, none altered
  assert set(train.labels) == set(test.labels) == set(range(10))


def test_digits_keep_their_labels():
  data: Any = load_digits()
  source = sources.digits('test')
  labels = {
    im.astype(np.uint8).tobytes(): y
    for im, y in zip(data.images, data.target, strict=True)
  }
  for image, label in zip(source.images, source.labels, strict=True):
    assert labels[image.tobytes()] == label


@pytest.mark.parametrize('shape', [(32, 32, 3), (8, 16, 1)])
def test_synthetic_pictures(shape):
  train, test = (sources.synthetic(s, shape, 4, 40) for s in ('train', 'test'))
  assert train.images.shape == (40, *shape) and train.images.dtype == np.uint8
  assert np.bincount(train.labels).tolist() == [10] * 4
  again = sources.synthetic('train', shape, 4, 40)
  np.testing.assert_array_equal(train.images, again.images)
  assert (train.images != test.images).any()


def test_unknown_splits_are_refused():
  for source in (sources.digits, sources.synthetic):
    with pytest.raises(ValueError, match="'valid' is not one of"):
      source('valid')


ARRAYS = {
  'images': np.arange(10 * 4 * 5 * 3, dtype=np.uint8).reshape(10, 4, 5, 3),
  'labels': np.arange(10) % 3,
}


def save(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_npz_as_sampling_writes_it(tmp_path):
  path = save(
    tmp_path / 'a.npz', arr_0=ARRAYS['images'], labels=ARRAYS['labels']
  )
  source = sources.npz(path, num_classes=3)
  assert source.image_shape == (4, 5, 3) and source.labels.dtype == np.int32
  images, labels = source.read(np.array([3, 1]))
  np.testing.assert_array_equal(images, ARRAYS['images'][[3, 1]])
  assert labels.tolist() == [0, 1]
  assert sources.npz(path).labels is None  # no classes were requested


def test_npz_of_grey_pictures_without_channels(tmp_path):
  path = save(tmp_path / 'a.npz', images=ARRAYS['images'][..., 0])
  assert sources.npz(path).images.shape == (10, 4, 5, 1)


def test_npz_with_a_test_split_of_its_own(tmp_path):
  tests = {'test_images': ARRAYS['images'][:2], 'test_labels': np.array([2, 1])}
  path = save(tmp_path / 'a.npz', **ARRAYS, **tests)
  train, test = (sources.npz(path, split, 3) for split in ('train', 'test'))
  assert (len(train), len(test)) == (10, 2)
  assert test.labels.tolist() == [2, 1]


def test_npz_with_a_fraction_held_out(tmp_path):
  path = save(tmp_path / 'a.npz', **ARRAYS)
  train, test = (sources.npz(path, s, 3, 0.3) for s in ('train', 'test'))
  assert (len(train), len(test)) == (7, 3)
  both = np.concatenate([train.images, test.images])
  assert {x.tobytes() for x in both} == {x.tobytes() for x in ARRAYS['images']}
  for source in (train, test):
    for image, label in zip(source.images, source.labels, strict=True):
      [i] = [i for i in range(10) if (ARRAYS['images'][i] == image).all()]
      assert ARRAYS['labels'][i] == label


IMAGES = {'images': ARRAYS['images']}


MISSING = 'it must contain images or arr_0'


@pytest.mark.parametrize('arrays, options, message', [
  ({'pictures': np.zeros(3), 'foo': np.zeros(2)}, {},
   f'a.npz has the arrays pictures, foo; {MISSING}'),
  ({}, {}, f'a.npz has the arrays none; {MISSING}'),
  ({'images': np.zeros((3, 4, 5))}, {}, r'got float64 \[3, 4, 5, 1\]'),
  ({'images': np.zeros(3, np.uint8)}, {}, r'must be uint8 .*got uint8 \[3\]'),
  ({'images': np.array([{}])}, {},
   'is not an npz file of arrays: it contains Python objects'),
  (IMAGES, {'num_classes': 3}, f'has the arrays images; {MISSING}'),
  (ARRAYS | {'test_images': ARRAYS['images']},
   {'num_classes': 3, 'split': 'test'},
   f'labels, test_images; {MISSING}.* with test_labels'),
  (ARRAYS, {'num_classes': 2}, r'in 0\.\.1, got int64 \[10\], 0\.\.2'),
  (ARRAYS | {'labels': np.zeros(4, int)}, {'num_classes': 2},
   r'labels must be int \[10\] in 0..1, got int64 \[4\]'),
  (ARRAYS, {'split': 'test'}, 'a.npz has no test split: set test_fraction'),
  (ARRAYS, {'split': 'val'}, "split 'val' is not one of train, test"),
  (ARRAYS, {'split': 'test', 'test_fraction': 0.01}, 'leaves none of the 10'),
])  # fmt: skip
def test_npz_names_what_is_wrong(tmp_path, arrays, options, message):
  path = save(tmp_path / 'a.npz', **arrays)
  with pytest.raises(ValueError, match=message):
    sources.npz(path, **options)


def test_other_files_are_not_npz(tmp_path):
  for path in (tmp_path / 'none.npz', tmp_path):
    with pytest.raises(
      FileNotFoundError, match='npz file .* not found; .*data=folder'
    ):
      sources.npz(path)
  whole = save(tmp_path / 'a.npz', **ARRAYS).read_bytes()
  method = bytearray(whole)
  method[method.index(b'PK\1\2') + 10] = 99  # an unknown compression
  np.savez_compressed(tmp_path / 'bad.npz', **ARRAYS)
  bad = bytearray((tmp_path / 'bad.npz').read_bytes())
  bad[100:120] = bytes(20)
  np.save(tmp_path / 'a.npy', np.zeros(3))
  array = (tmp_path / 'a.npy').read_bytes()
  for data in (b'hello', b'', array, method, bad, whole[:300]):
    (tmp_path / 'a.npz').write_bytes(data)
    with pytest.raises(ValueError, match='a.npz is not an npz file of arrays'):
      sources.npz(tmp_path / 'a.npz')


def test_importing_sources_is_light():
  """Only the module of tfds builders imports a heavy package at its top."""
  package, imported = Path(sources.__file__).parents[1], set()
  for path in (*package.glob('data/*.py'), *package.glob('demos/*.py')):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.ImportFrom):
        imported.add((node.module.partition('.')[0], path.stem))
      elif isinstance(node, ast.Import):
        names = [name.name.partition('.')[0] for name in node.names]
        imported |= {(name, path.stem) for name in names}
  heavy = {
    'grain',
    'tensorflow_datasets',
    'PIL',
    'sklearn',
    'scipy',
    'requests',
  }
  found = {(name, stem) for name, stem in imported if name in heavy}
  assert found == {('tensorflow_datasets', 'builders')}


def test_two_levels_are_the_halves_of_any_others():
  whole = sources.digits('test')
  halves = sources.TwoLevels(whole)
  index = np.array([5, 0, 7])
  images, labels = halves.read(index)
  expected, same = whole.read(index)
  np.testing.assert_array_equal(images, np.where(expected > 8, 1, 0))
  np.testing.assert_array_equal(labels, same)
  assert images.dtype == np.uint8 and halves.num_levels == 2
  assert (len(halves), halves.image_shape) == (360, (8, 8, 1))
  assert halves.num_classes == 10 and halves.in_memory
  every = sources.ArraySource(
    np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
  )
  images, _ = sources.TwoLevels(every).read(np.arange(256))
  np.testing.assert_array_equal(images.ravel(), np.repeat([0, 1], 128))

import numpy as np
import pytest

from diffusion_jax.data.npz import npz

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
  source = npz(path, num_classes=3)
  assert source.image_shape == (4, 5, 3) and source.labels.dtype == np.int32
  images, labels = source.read(np.array([3, 1]))
  np.testing.assert_array_equal(images, ARRAYS['images'][[3, 1]])
  assert labels.tolist() == [0, 1]
  assert npz(path).labels is None  # no classes were requested


def test_npz_of_grey_pictures_without_channels(tmp_path):
  path = save(tmp_path / 'a.npz', images=ARRAYS['images'][..., 0])
  assert npz(path).images.shape == (10, 4, 5, 1)


def test_npz_with_a_test_split_of_its_own(tmp_path):
  tests = {'test_images': ARRAYS['images'][:2], 'test_labels': np.array([2, 1])}
  path = save(tmp_path / 'a.npz', **ARRAYS, **tests)
  train, test = (npz(path, split, 3) for split in ('train', 'test'))
  assert (len(train), len(test)) == (10, 2)
  assert test.labels.tolist() == [2, 1]


def test_npz_with_a_fraction_held_out(tmp_path):
  path = save(tmp_path / 'a.npz', **ARRAYS)
  train, test = (npz(path, s, 3, 0.3) for s in ('train', 'test'))
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
  ({'images': np.zeros((3, 4, 5))}, {}, r'got float64 \[3, 4, 5\]: give gre'),
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
    npz(path, **options)


def test_other_files_are_not_npz(tmp_path):
  for path in (tmp_path / 'none.npz', tmp_path):
    with pytest.raises(
      FileNotFoundError, match='npz file .* not found; .*data=folder'
    ):
      npz(path)
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
      npz(tmp_path / 'a.npz')

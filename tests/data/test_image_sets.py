"""Files of samples and references."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal, assert_equal

from diffusion_jax.data import image_sets
from diffusion_jax.data.drawings import write_png


@pytest.fixture
def pictures():
  return np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)


X = np.arange(4)


def whole(found, size=3):
  return np.concatenate(list(found.batches(size)))


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_samples_are_read_in_batches(tmp_path, pictures, save):
  path = tmp_path / 'samples.npz'
  save(path, arr_0=pictures, labels=np.arange(7))
  found = image_sets.read(path)
  assert found.shape == (7, 4, 5, 3) and found.protocol == {}
  assert [len(batch) for batch in found.batches(3)] == [3, 3, 1]
  assert_array_equal(whole(found), pictures)
  assert_array_equal(found.arrays['labels'], np.arange(7))
  index = np.array([6, 0, 0, 4])
  assert_array_equal(image_sets.take(found, index, 2), pictures[index])


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
@pytest.mark.parametrize('size', [1, 3, 50])
def test_levels_of_another_type_are_levels(tmp_path, pictures, dtype, size):
  """Levels of another type are found in batches of any size, by a black and a white picture."""
  path = tmp_path / 'samples.npz'
  pictures[[0, 1, 6]] = [[[[0]]], [[[1]]], [[[0]]]]
  np.savez(path, arr_0=pictures[..., 0].astype(dtype))
  found = image_sets.read(path)
  assert found.shape == (7, 4, 5, 1)
  assert_array_equal(whole(found, size), pictures[..., :1])
  np.savez(path, arr_0=(pictures[..., 0] > 9).astype(dtype))
  with pytest.raises(ValueError, match='must have levels 0..255, got .* to 1:'):
    whole(image_sets.read(path), size)


@pytest.mark.parametrize('channels', [3, 1])
def test_folders_are_read_in_the_order_of_names(tmp_path, pictures, channels):
  pictures = pictures[..., :channels]
  (tmp_path / 'b').mkdir()
  for name, picture in zip(['a.png', 'b/0.png', 'b/1.png'], pictures, strict=False):
    write_png(tmp_path / name, picture)
  found = image_sets.read(tmp_path)
  assert found.shape == (3, 4, 5, channels)
  assert_array_equal(whole(found, 2), pictures[:3])
  write_png(tmp_path / 'b' / '2.png', pictures[0, :3])
  with pytest.raises(ValueError, match=r'2\.png is 3x5, .*a\.png is 4x5'):
    whole(image_sets.read(tmp_path))


def test_statistics_and_further_arrays_are_read_by_name(tmp_path):
  arrays = {'mu': np.arange(3.0), 'sigma': np.eye(3), 'mu_s': np.arange(2.0), 'scores': X}
  path = tmp_path / 'reference.npz'
  np.savez(path, **arrays, others=X, protocol='{"features": "digits"}')
  found = image_sets.read(path, ('scores', 'images', 'arr_0', 'absent'))
  assert found.shape == (0,) and found.protocol == {'features': 'digits'}
  assert not list(found.batches(3))
  assert_equal(found.arrays, arrays)


def test_sets_of_one_size_are_needed(pictures):
  a, b = (
    image_sets.ImageSet(name, x.shape, lambda size: iter(()), {}, {})
    for name, x in (('a', pictures), ('b', pictures[:, :3]))
  )
  image_sets.check_same_size(a, a)
  with pytest.raises(ValueError, match='a has 4x5x3, b 3x5x3'):
    image_sets.check_same_size(a, b)

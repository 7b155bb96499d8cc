"""Crops of photos are all crops, each once, with a part held out."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_array_equal
from PIL import Image
from sklearn.datasets import load_sample_image

from diffusion_jax.demos import photos


@pytest.fixture
def two(tmp_path):
  """Returns two random photos, 9x12 and 7x6, as files and as arrays."""
  rng = np.random.default_rng(0)
  arrays = [rng.integers(0, 256, (*s, 3), np.uint8) for s in ((9, 12), (7, 6))]
  paths = [str(tmp_path / name) for name in ('a.png', 'b.png')]
  for path, array in zip(paths, arrays, strict=True):
    Image.fromarray(array).save(path)
  return paths, arrays


def cut_by_hand(arrays, height, width):
  size = height, width, 3
  cuts = (sliding_window_view(array, size) for array in arrays)
  return np.concatenate([x.reshape(-1, *size) for x in cuts])


def test_every_crop_of_every_photo_once(two):
  paths, arrays = two
  source = photos.photos(paths, 'train', (4, 5, 3))
  expected = cut_by_hand(arrays, 4, 5)
  assert len(source) == len(expected) == 6 * 8 + 4 * 2
  assert source.in_memory and source.facts.x.shape == (4, 5, 3)
  order = np.random.default_rng(1).permutation(len(source))
  (images,) = source.read(order).values()
  assert images.dtype == np.uint8
  assert_array_equal(images, expected[order])


def test_the_photos_of_scikit_learn_are_the_default():
  source = photos.photos(image_shape=(32, 32, 3))
  assert len(source) == 2 * (427 - 31) * (640 - 31)
  china = load_sample_image('china.jpg')
  flower = load_sample_image('flower.jpg')
  first, last = source.read(np.array([0, len(source) - 1]))['x']
  assert_array_equal(first, china[:32, :32])
  assert_array_equal(last, flower[-32:, -32:])


def test_the_test_split_is_the_right_hand_part(two):
  paths, arrays = two
  options = {'image_shape': (4, 2, 3), 'test_fraction': 1 / 3}
  train = photos.photos(paths, 'train', **options)
  test = photos.photos(paths, 'test', **options)
  left = [arrays[0][:, :8], arrays[1][:, :4]]
  right = [arrays[0][:, 8:], arrays[1][:, 4:]]
  for source, parts in ((train, left), (test, right)):
    found = source.read(np.arange(len(source)))['x']
    assert_array_equal(found, cut_by_hand(parts, 4, 2))


def test_shrinking_averages_squares(tmp_path):
  blocks = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4, 1)
  picture = blocks.repeat(2, 0).repeat(2, 1).repeat(3, 2)
  picture[::2, ::2] += 8  # one pixel of each square of four
  Image.fromarray(picture).save(tmp_path / 'a.png')
  for channels in (1, 3):
    source = photos.photos([str(tmp_path / 'a.png')], 'train', (3, 4, channels), shrink=2)
    assert len(source) == 1
    image = source.read(np.array([0]))['x'][0]
    assert_array_equal(image, np.repeat(blocks + 2, channels, -1))


def test_mistakes_are_one_line_each(two, tmp_path):
  paths, _ = two
  for message, *args in (
    (
      'b.png is too small for crops of 8x8: its train part is 7x6 pixels',
      paths,
      'train',
      (8, 8, 3),
    ),
    ('a.png has no test split: set test_frac', paths, 'test', (4, 4, 3)),
    ('image .*none.jpg not found', [str(tmp_path / 'none.jpg')]),
    ("list of files, got the string 'a.jpg", 'a.jpg'),
    ('cannot convert 3 channels to 2', paths, 'train', (4, 4, 2)),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
      photos.photos(*args)

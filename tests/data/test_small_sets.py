from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffusion_jax.data import small_sets


def test_digits_are_scikit_learns_split_once_and_for_all():
  train, test = small_sets.digits('train'), small_sets.digits('test')
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


def test_turned_digits_are_a_quarter_further_anticlockwise():
  """The top row becomes the left column, from the bottom to the top."""
  upright, turned = small_sets.digits(), small_sets.digits(quarter_turns=1)
  np.testing.assert_array_equal(turned.images[:, ::-1, 0], upright.images[:, 0])
  np.testing.assert_array_equal(turned.labels, upright.labels)


def test_digits_keep_their_labels():
  data: Any = load_digits()
  source = small_sets.digits('test')
  labels = {
    im.astype(np.uint8).tobytes(): y
    for im, y in zip(data.images, data.target, strict=True)
  }
  for image, label in zip(source.images, source.labels, strict=True):
    assert labels[image.tobytes()] == label


@pytest.mark.parametrize('shape', [(32, 32, 3), (8, 16, 1)])
def test_synthetic_pictures(shape):
  train, test = (
    small_sets.synthetic(s, shape, 4, 40) for s in ('train', 'test')
  )
  assert train.images.shape == (40, *shape) and train.images.dtype == np.uint8
  assert np.bincount(train.labels).tolist() == [10] * 4
  again = small_sets.synthetic('train', shape, 4, 40)
  np.testing.assert_array_equal(train.images, again.images)
  assert (train.images != test.images).any()


def test_unknown_splits_are_refused():
  for source in (small_sets.digits, small_sets.synthetic):
    with pytest.raises(ValueError, match="'valid' is not one of"):
      source('valid')

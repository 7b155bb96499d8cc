import itertools

import numpy as np
import pytest

from diffusion_jax.data import images, pipeline, sources


@pytest.fixture
def numbered():
  """Image i is filled with the number i."""
  numbers = np.arange(10, dtype=np.uint8)
  pictures = np.broadcast_to(numbers[:, None, None, None], (10, 2, 3, 1))
  return sources.ArraySource(pictures.copy(), numbers.astype(np.int32), 10, 10)


def seen(source, size, steps, seed=0):
  return [pipeline.batch_at(source, size, seed, i)['label'] for i in steps]


def test_every_epoch_has_every_image_once_in_its_own_order(numbered):
  stream = np.concatenate(seen(numbered, 4, range(5)))  # two epochs of 10
  first, second = stream[:10], stream[10:]
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(second)


def test_batch_i_is_a_function_of_i(numbered):
  stream = pipeline.batches(numbered, 4, 3, start_step=5)
  for i, batch in zip(range(5, 9), stream, strict=False):
    expected = pipeline.batch_at(numbered, 4, 3, i)
    np.testing.assert_array_equal(batch['image'], expected['image'])
    np.testing.assert_array_equal(batch['label'], expected['label'])


def test_the_seed_changes_the_order(numbered):
  assert list(seen(numbered, 10, [0])[0]) != list(seen(numbered, 10, [0], 1)[0])


def test_images_keep_their_labels_and_fill_minus_one_to_one(numbered):
  for batch in itertools.islice(pipeline.batches(numbered, 4, 0), 6):
    image = batch['image']
    assert image.dtype == np.float32 and image.shape == (4, 2, 3, 1)
    expected = batch['label'] * (2 / 9) - 1
    np.testing.assert_allclose(image[:, 0, 0, 0], expected, atol=1e-6)


def test_a_batch_may_be_larger_than_the_set(numbered):
  labels = pipeline.batch_at(numbered, 25, 0, 0)['label']
  assert (np.bincount(labels, minlength=10) >= 2).all()


def test_random_flip_mirrors_half_of_the_images():
  ramp = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1)
  source = sources.ArraySource(np.repeat(ramp, 500, axis=0), num_levels=4)
  batch = pipeline.batch_at(source, 500, 0, 0, random_flip=True)
  assert 'label' not in batch
  rising = batch['image'][:, 0, 0, 0] < batch['image'][:, 0, 3, 0]
  assert abs(rising.mean() - 0.5) < 5 * 0.5 / 500**0.5
  straight = images.scale(ramp, 4)
  np.testing.assert_array_equal(batch['image'][rising][0], straight[0])
  np.testing.assert_array_equal(
    batch['image'][~rising][0], straight[0][:, ::-1]
  )
  other = pipeline.batch_at(source, 500, 0, 1, random_flip=True)
  assert (other['image'] != batch['image']).any()

"""Batches follow from the seed and the step, for any number of threads and hosts."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.data import pipeline, sources


@pytest.fixture
def numbered():
  numbers = np.arange(10, dtype=np.uint8)
  pictures = np.broadcast_to(numbers[:, None, None, None], (10, 2, 3, 1))
  return sources.ArraySource(pictures.copy(), numbers.astype(np.int32), 10, levels=10)


class OnDisk:
  in_memory = False

  def __init__(self, array_source):
    self._inner, self.facts = array_source, array_source.facts
    self.requests = []

  def __len__(self):
    return len(self._inner)

  def read(self, index):
    self.requests.append(len(index))
    return self._inner.read(index)


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert_array_equal(a[name], b[name])


def test_only_the_rows_of_a_host_are_read(numbered):
  source = OnDisk(numbered)
  pipeline.batch_at(source, 8, 0, 1, rows=slice(2, 4))
  assert source.requests == [2]


@pytest.mark.parametrize('num_threads', [1, 3])
def test_threads_do_not_change_the_batches(numbered, num_threads):
  stream: Any = pipeline.batches(OnDisk(numbered), 4, 7, 5, True, num_threads=num_threads)
  for step in range(5, 15):
    assert_same(next(stream), pipeline.batch_at(numbered, 4, 7, step, True))
  stream.close()


@pytest.mark.parametrize('size', [5, 16])
def test_batches_are_those_of_a_literal_transcription(size):
  """An epoch has each image once; nothing must change between versions."""
  pictures = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 1), np.uint8)
  source = sources.ArraySource(pictures, np.arange(7, dtype=np.int32), 7)
  seed, epochs = 11, range(-(-4 * size // 7))
  order = np.concatenate([np.random.default_rng((seed, 0, e)).permutation(7) for e in epochs])
  for step in range(4):
    flips = np.random.default_rng((seed, 1, step)).random(size) < 0.5
    batch = pipeline.batch_at(source, size, seed, step, random_flip=True)
    index = order[step * size :][:size]
    expected = pictures[index] / 127.5 - 1.0
    expected[flips] = expected[flips][:, :, ::-1]
    assert batch['x'].dtype == np.float32
    assert_allclose(batch['x'], expected, atol=1e-6)
    assert_array_equal(batch['label'], index)

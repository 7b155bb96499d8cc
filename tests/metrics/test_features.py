"""Features are computed in batches, while the next batch is read."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.interop import features as published
from diffusion_jax.interop.features import Features
from diffusion_jax.metrics import features


@pytest.fixture
def pictures():
  return np.random.default_rng(0).integers(0, 256, (7, 2, 3, 1)).astype('uint8')


@pytest.mark.parametrize('name', ['digits', 'two_levels', 'shapes', 'pixels'])
def test_the_arrays_of_an_extractor_are_known(name):
  side = 16 if name == 'shapes' else 8
  pictures = np.zeros((2, side, side, 3 if name == 'shapes' else 1), np.uint8)
  assert sorted(features.make(name).extract(pictures)) == sorted(features.ARRAYS[name])


def test_batches_are_joined_and_counted(pictures):
  extractor = features.make('pixels')
  counts = []
  batches = (pictures[a:b] for a, b in ((0, 3), (3, 6), (6, 7)))
  found = features.join(features.each(extractor, batches, counts.append))
  assert_array_equal(found['features'], extractor.extract(pictures)['features'])
  assert counts == [3, 3, 1]


def test_the_next_batch_is_read_while_one_is_used_and_its_error_is_raised():
  read = threading.Event()

  def batches():
    yield 1
    read.set()
    yield 2
    raise ValueError('a.png is damaged')

  ahead = features.ahead(batches())
  assert next(ahead) == 1
  assert read.wait(10.0)  # nobody has asked for the second one yet
  assert next(ahead) == 2
  with pytest.raises(ValueError, match=r'a\.png is damaged'):
    next(ahead)


def test_published_networks_are_streamed(monkeypatch):
  network = Features(lambda params, x: {}, None, {'features': 'F'})
  monkeypatch.setattr(published, 'load_features', lambda *args: network)
  assert features.make('dinov2').stream == network.stream

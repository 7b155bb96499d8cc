"""A metric of real images gets their labels and the image of their condition."""

import functools
from typing import Any

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.data import pipeline, small_sets
from diffusion_jax.metrics import real_images
from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.runtime.streams import stream


def test_a_metric_sees_the_labels_and_the_image_of_the_condition(tmp_path):
  """cond['image'] is drawn with a key of the seed and the image's index."""
  noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))
  source, index = small_sets.digits('test'), np.arange(3)
  encode = source.facts.x.encode
  found: Any = real_images.arrays_of(
    lambda params, keys, x0, cond: cond,
    'x',
    {},
    functools.partial(pipeline.examples, source),
    count=3,
    folder=tmp_path / 'parts',
    mesh=make_mesh(),
    encode=encode,
    seed=2,
    size=2,
    condition=lambda keys, x0: x0 + noise(keys),
  )
  x0, labels = source.read(index).values()
  assert_array_equal(found['label'], labels)
  root = stream(2, 'evaluation_images')
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
  images = encode(x0) + noise(keys)
  sums = [images[:2].sum(axis=0), images[2]]  # of each batch
  assert_allclose(found['image'], sums, atol=1e-5)

"""What a metric of real images sees."""

import functools
from typing import Any

import jax
import numpy as np

from diffusion_jax.app import devices, models
from diffusion_jax.core.keys import stream
from diffusion_jax.data import pipeline, small_sets
from diffusion_jax.metrics import real_images
from tests.app.conftest import DIGITS, smoke


def test_a_metric_sees_the_labels_and_the_image_of_the_condition(tmp_path):
  """cond['image'] is drawn with a key of the seed and the image's index."""
  config = smoke(**{'conditioning.image': 'inpaint'})
  model: Any = models.make(config, tmp_path)
  condition = model.conditioning.image
  total = lambda x: x.sum(axis=(1, 2, 3))

  def measure(params, keys, x0, cond):
    return {'label': cond['label'], 'image': total(cond['image'])}

  source, index = small_sets.digits('test'), np.arange(3)
  found: Any = real_images.arrays_of(
    measure,
    'x',
    {},
    functools.partial(pipeline.examples, source),
    3,
    tmp_path / 'parts',
    devices.make_mesh(model.config),
    encode=DIGITS.x.encode,
    seed=2,
    size=2,
    condition=condition,
  )
  x0, labels = source.read(index).values()
  np.testing.assert_array_equal(found['label'], labels)
  root = stream(2, 'evaluation_images')
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
  images = jax.jit(condition)(keys, DIGITS.x.encode(x0))
  np.testing.assert_allclose(found['image'], total(images), rtol=1e-5)

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from diffusion_jax.networks import layers
from tests.networks.literal import close, random_params


def test_conv_module_is_flaxs(key):
  x = jax.random.normal(key, (2, 6, 6, 3))
  conv = layers.Conv(5)
  params = {'params': random_params(conv, x)}
  theirs = nn.Conv(5, (3, 3))
  close(jax.jit(conv.apply)(params, x), jax.jit(theirs.apply)(params, x))


X = np.arange(1.0, 37.0, dtype=np.float32).reshape(6, 6)


@pytest.mark.parametrize('module, place, expected', [
  # TensorFlow pads at the bottom and right: window i is 2i..2i+2.
  (layers.Downsample(), (2, 1), np.pad(X, ((0, 1), (0, 1)))[2::2, 1::2][:, :3]),
  # PyTorch's padding 1 is on all four sides: window i is 2i-1..2i+1.
  (layers.Downsample('symmetric'), (0, 2),
   [[0.0, 0.0, 0.0], [8.0, 10.0, 12.0], [20.0, 22.0, 24.0]]),
  (layers.Upsample(), (1, 1), np.kron(X, np.ones((2, 2)))),
])  # fmt: skip
def test_the_place_of_the_window_of_a_resampling(module, place, expected):
  """The kernel picks one pixel of each window."""
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[place] = 1.0
  params = {'conv': {'kernel': kernel, 'bias': np.zeros(1, np.float32)}}
  found: Any = jax.jit(module.apply)({'params': params}, X[None, :, :, None])
  np.testing.assert_array_equal(found[0, :, :, 0], expected)

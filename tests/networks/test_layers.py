from typing import Any

import flax.linen as nn
import jax
import numpy as np

from diffusion_jax.networks import layers
from tests.networks.literal import randomised


def close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
    found,
    expected,
  )


def test_conv_module_is_flaxs(key):
  x = jax.random.normal(key, (2, 6, 6, 3))
  conv = layers.Conv(5)
  params = {'params': randomised(jax.eval_shape(conv.init, key, x)['params'])}
  theirs = nn.Conv(5, (3, 3))
  close(jax.jit(conv.apply)(params, x), jax.jit(theirs.apply)(params, x))


def test_downsample_is_tensorflows_same():
  """TF pads even sizes at the bottom and right: window i is 2i..2i+2."""
  x = np.arange(36.0).reshape(1, 6, 6, 1)
  module = layers.Downsample()
  kernel = np.zeros((3, 3, 1, 1))
  kernel[2, 1] = 1.0  # picks row 2i + 2, column 2j + 1
  params = {'conv': {'kernel': np.float32(kernel), 'bias': np.zeros(1)}}
  found: Any = jax.jit(module.apply)({'params': params}, np.float32(x))
  found = np.asarray(found)
  padded = np.pad(x[0, :, :, 0], ((0, 1), (0, 1)))
  np.testing.assert_array_equal(found[0, :, :, 0], padded[2::2, 1::2][:3, :3])


def test_symmetric_downsample_is_pytorchs_padding_1():
  """Zeros are on all four sides: window i is 2i-1..2i+1."""
  x = np.arange(1.0, 37.0).reshape(1, 6, 6, 1)
  kernel = np.zeros((3, 3, 1, 1))
  kernel[0, 2] = 1.0  # picks row 2i - 1, column 2j + 1
  params = {'conv': {'kernel': np.float32(kernel), 'bias': np.zeros(1)}}
  module = layers.Downsample('symmetric')
  found: Any = jax.jit(module.apply)({'params': params}, np.float32(x))
  found = np.asarray(found)
  expected = [[0.0, 0.0, 0.0], [8.0, 10.0, 12.0], [20.0, 22.0, 24.0]]
  np.testing.assert_array_equal(found[0, :, :, 0], expected)


def test_upsample_doubles_every_pixel():
  x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1.0
  params = {'conv': {'kernel': kernel, 'bias': np.zeros(1, np.float32)}}
  found: Any = jax.jit(layers.Upsample().apply)({'params': params}, x)
  found = np.asarray(found)
  expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
  np.testing.assert_array_equal(found[0, :, :, 0], expected)

"""Compares the Inception network of FID with NumPy, part by part."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from diffusion_jax.metrics.features import ARRAYS
from diffusion_jax.networks import inception
from diffusion_jax.networks.inception import Inception, Unit
from tests.networks.jaxprs import equations

IMAGES = jax.ShapeDtypeStruct((2, 299, 299, 3), np.float32)


@pytest.fixture(scope='module')
def shapes():
  return jax.eval_shape(Inception().init, jax.random.key(0), IMAGES)


@pytest.fixture(scope='module')
def traced(shapes):
  """Returns the program of the network, and its outputs."""
  return jax.make_jaxpr(Inception().apply, return_shape=True)(shapes, IMAGES)


def resize_tf1(x, side):
  """Computes TensorFlow 1's ResizeBilinear, align_corners=False, by axes."""
  for axis in (1, 2):
    x = x.swapaxes(axis, -1)
    at = np.arange(side) * x.shape[-1] / side
    first = at.astype(int)
    second = np.minimum(first + 1, x.shape[-1] - 1)
    x = x[..., first] + (at - first) * (x[..., second] - x[..., first])
    x = x.swapaxes(axis, -1)
  return x


@pytest.mark.parametrize('shape, side', [((5, 8), 13), ((20, 23), 6), ((1, 1), 4)])
def test_images_are_resized_as_by_tensorflow_1(shape, side):
  x = np.random.default_rng(0).uniform(0.0, 255.0, (2, *shape, 3))
  found = inception.resize_bilinear(x.astype(np.float32), side)
  assert_allclose(found, resize_tf1(x, side), atol=1e-3)


def test_preprocessing_scales_once_and_repeats_grey():
  grey = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), np.uint8)
  found = jax.jit(inception.preprocess)(grey)
  assert found.shape == (1, 299, 299, 3)
  expected = (resize_tf1(np.float64(grey), 299) - 128.0) / 128.0
  assert_allclose(found, np.tile(expected, 3), atol=1e-5)


def convolve(x, kernel, pad, stride=1):
  """Computes a convolution by its definition; pad: (height, width)."""
  x = np.pad(x, ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))
  height, width = kernel.shape[:2]
  rows = range(0, x.shape[1] - height + 1, stride)
  columns = range(0, x.shape[2] - width + 1, stride)
  out = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
  for a, i in enumerate(rows):
    for b, j in enumerate(columns):
      patch = x[:, i : i + height, j : j + width]
      out[:, a, b] = np.einsum('nhwc,hwco->no', patch, kernel)
  return out


def normalise(x, p):
  return p['scale'] * (x - p['mean']) / np.sqrt(p['var'] + 0.001) + p['bias']


def random_params(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.uniform(0.2, 1.0, x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
  'size, stride, padding, pad', [((1, 7), 1, 'SAME', (0, 3)), ((3, 3), 2, 'VALID', (0, 0))]
)
def test_a_unit_is_convolution_norm_and_relu(size, stride, padding, pad):
  x = np.random.default_rng(0).standard_normal((1, 9, 8, 2))
  unit = Unit(3, size, stride, padding)
  shapes = jax.eval_shape(unit.init, jax.random.key(0), np.float32(x))
  params = random_params(shapes['params'])
  params['mean'] += 1.0  # so that some outputs are negative before the ReLU
  found = jax.jit(unit.apply)({'params': params}, np.float32(x))
  wide = jax.tree.map(np.float64, params)
  expected = normalise(convolve(x, wide['kernel'], pad, stride), wide)
  assert (expected < 0).any()
  assert_allclose(found, np.maximum(expected, 0.0), atol=1e-5)


def pooled(x, reduce):
  """Pools 3x3 pixels, without pixels outside of the image."""
  out = np.zeros(x.shape)
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      rows = slice(max(i - 1, 0), i + 2)
      columns = slice(max(j - 1, 0), j + 2)
      out[:, i, j] = reduce(x[:, rows, columns], axis=(1, 2))
  return out


class PoolBranch(nn.Module):
  """Computes the pooled branch of a block of 35x35 places."""

  @nn.compact
  def __call__(self, x):
    return inception.block_a(x, 'Mixed_5b', 4)[-1]


def test_the_pool_branch_averages_without_the_padding():
  x = np.random.default_rng(0).standard_normal((1, 5, 4, 2))
  network = PoolBranch()
  shapes = jax.eval_shape(network.init, jax.random.key(0), np.float32(x))
  params = random_params(shapes['params'])
  found = jax.jit(network.apply)({'params': params}, np.float32(x))
  unit = jax.tree.map(np.float64, params['Mixed_5b.branch_pool'])
  h = convolve(pooled(x, np.mean), unit['kernel'], (0, 0))
  assert_allclose(found, np.maximum(normalise(h, unit), 0.0), atol=1e-5)


def test_the_maximum_is_over_pixels_inside():
  x = -1.0 - np.random.default_rng(0).uniform(size=(1, 4, 5, 2))
  found = inception.max_pool(np.float32(x))
  assert_allclose(found, pooled(x, np.max), rtol=1e-6)


def test_the_graph_has_the_published_parameters_and_outputs(shapes, traced):
  # torchvision's inception_v3 without its auxiliary classifier has 23,834,568
  # parameters for 1000 classes. Ours has 8 more classes without a bias,
  # and the means and variances of 94 norms with 17,216 channels.
  counts = {name: sum(x.size for x in unit.values()) for name, unit in shapes['params'].items()}
  assert len(counts) == 94 + 1
  assert sum(counts.values()) == 23_834_568 + 8 * 2049 - 1008 + 2 * 17_216
  found = traced[1]
  assert {name: x.shape for name, x in found.items()} == {
    'features': (2, 2048),
    'spatial': (2, 2023),
    'logits': (2, 1008),
  }
  assert set(ARRAYS['inception']) == set(found)


def test_pools_are_maxima_where_the_grid_shrinks_and_in_the_last_block(traced):
  found = []
  for e in equations(traced[0].jaxpr):
    shape = e.outvars[0].aval.shape
    # Windows of one channel count the pixels inside of the image.
    if e.primitive.name.startswith('reduce_window') and shape[-1] > 1:
      kind = 'max' if e.primitive.name.endswith('max') else 'mean'
      found.append((kind, *shape[1:]))
  assert found == [
    ('max', 73, 73, 64),
    ('max', 35, 35, 192),
    ('mean', 35, 35, 192),  # 5b
    ('mean', 35, 35, 256),
    ('mean', 35, 35, 288),
    ('max', 17, 17, 288),  # 6a
    *[('mean', 17, 17, 768)] * 4,
    ('max', 8, 8, 768),  # 7a
    ('mean', 8, 8, 1280),  # 7b
    ('max', 8, 8, 2048),  # 7c
  ]

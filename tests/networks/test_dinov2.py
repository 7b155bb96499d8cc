"""Compares DINOv2's network with NumPy and PIL."""

from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.special import erf

from diffusion_jax.metrics.features import ARRAYS
from diffusion_jax.networks import dinov2
from diffusion_jax.networks.dinov2 import DinoV2
from tests.networks.literal import attend, dense, heads, layer_norm, random_params

preprocess = jax.jit(dinov2.preprocess)


@pytest.mark.parametrize('side', [32, 300])
def test_images_are_resized_as_by_pil_without_rounding(side):
  shape = (1, side, side, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  resized = np.zeros((224, 224, 3))
  for c in range(3):
    channel = Image.fromarray(np.float32(images[0, :, :, c]))
    channel = channel.resize((224, 224), Image.Resampling.BICUBIC)
    resized[..., c] = np.asarray(channel)
  mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = (resized / 255.0 - mean) / deviation
  found = preprocess(images)
  assert_allclose(found[0], expected, atol=1e-4)


def test_grey_images_are_repeated():
  grey = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 1), np.uint8)
  assert_array_equal(preprocess(grey), preprocess(np.repeat(grey, 3, axis=3)))


def block(x, p, num_heads):
  """Computes one block of Oquab et al. 2023."""
  h = layer_norm(x, p['norm_1'])
  q, k, v = (heads(dense(p[name], h), num_heads) for name in ('query', 'key', 'value'))
  x = x + p['scale_1'] * dense(p['out'], attend(q, k, v))
  h = dense(p['mlp_in'], layer_norm(x, p['norm_2']))
  h = h * (1.0 + erf(h / np.sqrt(2.0))) / 2.0
  return x + p['scale_2'] * dense(p['mlp_out'], h)


def test_features_are_the_class_token_after_the_last_norm():
  x = np.random.default_rng(1).standard_normal((2, 28, 42, 3))
  network = DinoV2(width=8, depth=1, num_heads=2, grid=4)
  params = random_params(network, np.float32(x))
  output: Any = jax.jit(network.apply)({'params': params}, np.float32(x))
  assert set(ARRAYS['dinov2']) == set(output)
  found = output['features']
  p = jax.tree.map(np.float64, params)
  tokens = np.zeros((2, 7, 8))
  tokens[:, 0] = p['class_token'] + p['positions'][0]
  grid = p['positions'][1:].reshape(4, 4, 8)
  places = interpolate(interpolate(grid, 2), 3, axis=1)
  for i in range(2):
    for j in range(3):
      patch = x[:, 14 * i : 14 * (i + 1), 14 * j : 14 * (j + 1)]
      h = np.einsum('nhwc,hwco->no', patch, p['patches']['kernel'])
      tokens[:, 1 + 3 * i + j] = h + p['patches']['bias'] + places[i, j]
  expected = layer_norm(block(tokens, p['block_0'], 2)[:, 0], p['norm'])
  assert_allclose(found, expected, atol=5e-5)


def interpolate(x, count, axis=0, offset=0.1):
  """Cubic convolution (Keys 1981) with a = -3/4, place by place."""
  x = np.moveaxis(x, axis, 0)
  out = np.zeros((count, *x.shape[1:]))
  for i in range(count):
    at = (i + 0.5) / ((count + offset) / len(x)) - 0.5
    for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
      d = abs(at - j)
      if d <= 1:
        weight = 1.25 * d**3 - 2.25 * d**2 + 1
      else:
        weight = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
      out[i] += weight * x[min(max(j, 0), len(x) - 1)]
  return np.moveaxis(out, 0, axis)


def test_positions_are_interpolated_without_the_offset_or_kept():
  grid = np.random.default_rng(0).standard_normal((37, 37, 3), np.float32)
  expected = interpolate(interpolate(grid, 16, 0, 0.0), 9, 1, 0.0)
  assert_allclose(dinov2.interpolate_positions(grid, (16, 9), 0.0), expected, atol=1e-5)
  assert dinov2.interpolate_positions(grid, (37, 37)) is grid


# The published counts include a mask token of the width.
@pytest.mark.parametrize(
  'network, published', [(DinoV2(384, 12, 6), 22_056_576 - 384), (DinoV2(), 304_368_640 - 1024)]
)
def test_networks_have_the_published_number_of_parameters(network, published):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), images)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == published

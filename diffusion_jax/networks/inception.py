"""The Inception network of FID: TensorFlow's graph of 2015-12-05.

It is Inception-v3 (Szegedy et al. 2016) with three peculiarities of that graph:
average pools leave the padding out of the mean, the pool of the last block is a
maximum, and there are 1008 classes. Units have the names of torchvision's
layers, 'Mixed_5b.branch1x1', by which published weights are known.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array

SIDE = 299  # height and width of the input
NORM_EPSILON = 1e-3
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7  # channels of mixed_6/conv for sFID (Nash et al. 2021)


def preprocess(images: Array) -> Array:
  """Returns the network's input for images: [N, 299, 299, 3] float32.

  images: uint8 [N, H, W, 3 or 1], 0..255; grey ones are repeated. They are
  resized as TensorFlow 1 does it (`resize_bilinear`) and scaled, (x - 128) /
  128.
  """
  x = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
  return (resize_bilinear(x, SIDE) - 128.0) / 128.0


def resize_bilinear(x: Array, side: int) -> Array:
  """Resizes [N, H, W, C] to [N, side, side, C] as TensorFlow 1 did.

  Pixel i of the output is at i H / side of the input: corners are not aligned,
  pixels have no half-pixel centres, without antialiasing.
  """
  low, high, weight = _taps(x.shape[1], side)
  x = x[:, low] + (x[:, high] - x[:, low]) * weight[None, :, None, None]
  low, high, weight = _taps(x.shape[2], side)
  x_low, x_high = x[:, :, low], x[:, :, high]
  return x_low + (x_high - x_low) * weight[None, None, :, None]


def _taps(size, side):
  # `low` depends on the rounding, so positions are float32, as in TensorFlow.
  position = np.arange(side, dtype=np.float32) * np.float32(size / side)
  low = position.astype(np.int32)
  high = np.minimum(low + 1, size - 1)
  return low, high, position - low.astype(np.float32)


class Inception(nn.Module):
  """Computes features of images x [N, 299, 299, 3] in [-1, 1] (`preprocess`).

  Returns 'features' [N, 2048], the mean of the last block (pool_3), for FID and
  KID; 'spatial' [N, 2023], the first 7 channels of mixed_6/conv at 17x17
  places, in the order height, width, channel, for sFID; and 'logits' [N, 1008]
  without bias, for the Inception score. Batch norms use their stored
  statistics.
  """

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    x = _unit(x, 'Conv2d_1a_3x3', 32, 3, 2)
    x = _unit(x, 'Conv2d_2a_3x3', 32, 3, padding='VALID')
    x = _unit(x, 'Conv2d_2b_3x3', 64, 3)
    x = nn.max_pool(x, (3, 3), (2, 2))
    x = _unit(x, 'Conv2d_3b_1x1', 80)
    x = _unit(x, 'Conv2d_4a_3x3', 192, 3, padding='VALID')
    x = nn.max_pool(x, (3, 3), (2, 2))
    for name, pooled in (('5b', 32), ('5c', 64), ('5d', 64)):
      x = _join(block_a(x, f'Mixed_{name}', pooled))
    x = _join(block_b(x, 'Mixed_6a'))
    spatial = x
    for name, width in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
      branches = block_c(x, f'Mixed_{name}', width)
      x = _join(branches)
      if name == '6d':
        spatial = branches[0][..., :SPATIAL_CHANNELS]
    x = _join(block_d(x, 'Mixed_7a'))
    x = _join(block_e(x, 'Mixed_7b', average_pool))
    x = _join(block_e(x, 'Mixed_7c', max_pool))
    features = x.mean(axis=(1, 2))
    logits = nn.Dense(NUM_CLASSES, use_bias=False, name='fc')(features)
    return {
      'features': features,
      'spatial': spatial.reshape(spatial.shape[0], -1),
      'logits': logits,
    }


class Unit(nn.Module):
  """Computes a convolution, a batch norm by stored statistics, and a ReLU.

  The parameters are kernel [h, w, in, out], and scale, bias, mean and var of
  the norm, each [out].
  """

  features: int
  size: tuple[int, int]
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (*self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.he_normal(), shape)
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    width = (self.features,)
    scale = self.param('scale', ones, width)
    bias = self.param('bias', zeros, width)
    mean = self.param('mean', zeros, width)
    var = self.param('var', ones, width)
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      (self.stride, self.stride),
      self.padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    factor = scale * jax.lax.rsqrt(var + NORM_EPSILON)
    return nn.relu((x - mean[None, None, None]) * factor[None, None, None] + bias[None, None, None])


def _unit(x, name, features, size: int | tuple[int, int] = 1, stride=1, padding='SAME'):
  size = (size, size) if isinstance(size, int) else size
  # All convolutions of stride 2 are without padding.
  padding = padding if stride == 1 else 'VALID'
  return Unit(features, size, stride, padding, name=name)(x)


def _chain(x, name, *units):
  # Applies units (features, size, stride), name_1, name_2, ...
  for i, unit in enumerate(units, 1):
    x = _unit(x, f'{name}_{i}', *unit)
  return x


def _join(branches):
  return jnp.concatenate(branches, axis=-1)


def average_pool(x: Array) -> Array:
  """Returns the mean of 3x3 pixels, without pixels outside of the image."""
  return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


def max_pool(x: Array) -> Array:
  """Returns the maximum of 3x3 pixels, of the size of x."""
  return nn.max_pool(x, (3, 3), (1, 1), 'SAME')


def block_a(x: Array, block: str, pooled: int) -> list[Array]:
  """Returns the branches of a block of 35x35 places."""
  name = f'{block}.branch'
  return [
    _unit(x, f'{name}1x1', 64),
    _chain(x, f'{name}5x5', (48,), (64, 5)),
    _chain(x, f'{name}3x3dbl', (64,), (96, 3), (96, 3)),
    _unit(average_pool(x), f'{name}_pool', pooled),
  ]


def block_b(x: Array, block: str) -> list[Array]:
  """Returns the branches of the block from 35x35 to 17x17 places."""
  return [
    _unit(x, f'{block}.branch3x3', 384, 3, 2),
    _chain(x, f'{block}.branch3x3dbl', (64,), (96, 3), (96, 3, 2)),
    nn.max_pool(x, (3, 3), (2, 2)),
  ]


def block_c(x: Array, block: str, width: int) -> list[Array]:
  """Returns the branches of a block of 17x17 places."""
  name, row, column = f'{block}.branch', (width, (1, 7)), (width, (7, 1))
  return [
    _unit(x, f'{name}1x1', 192),
    _chain(x, f'{name}7x7', (width,), row, (192, (7, 1))),
    _chain(x, f'{name}7x7dbl', (width,), column, row, column, (192, (1, 7))),
    _unit(average_pool(x), f'{name}_pool', 192),
  ]


def block_d(x: Array, block: str) -> list[Array]:
  """Returns the branches of the block from 17x17 to 8x8 places."""
  return [
    _chain(x, f'{block}.branch3x3', (192,), (320, 3, 2)),
    _chain(x, f'{block}.branch7x7x3', (192,), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
    nn.max_pool(x, (3, 3), (2, 2)),
  ]


def block_e(x: Array, block: str, pool: Callable[[Array], Array]) -> list[Array]:
  """Returns the branches of a block of 8x8 places."""
  name, row, column = f'{block}.branch', (1, 3), (3, 1)
  h = _unit(x, f'{name}3x3_1', 384)
  double = _chain(x, f'{name}3x3dbl', (448,), (384, 3))
  return [
    _unit(x, f'{name}1x1', 320),
    _unit(h, f'{name}3x3_2a', 384, row),
    _unit(h, f'{name}3x3_2b', 384, column),
    _unit(double, f'{name}3x3dbl_3a', 384, row),
    _unit(double, f'{name}3x3dbl_3b', 384, column),
    _unit(pool(x), f'{name}_pool', 192),
  ]

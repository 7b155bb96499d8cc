"""DINOv2's vision transformers (Oquab et al. 2023), for features of images."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.tokens import layer_norm, split_heads

Array = jax.Array

SIDE = 224  # height and width of the input
PATCH = 14
MEAN = (0.485, 0.456, 0.406)  # ImageNet, pixels in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)


def preprocess(images: Array) -> Array:
  """Returns images as DINOv2 takes them: [N, 224, 224, 3] float32.

  images: uint8 [N, H, W, 3 or 1], 0..255; grey ones are repeated. They are
  resized by antialiased bicubic interpolation (Keys, a = -1/2), without
  rounding or clipping, divided by 255, and normalised by ImageNet's mean and
  deviation, as in EDM2 (Karras et al. 2024).
  """
  x = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
  shape = (x.shape[0], SIDE, SIDE, 3)
  x = jax.image.resize(x, shape, 'bicubic', antialias=True) / 255.0
  mean, deviation = (jnp.array([[[c]]], jnp.float32) for c in (MEAN, DEVIATION))
  return (x - mean[None, 0]) / deviation[None, 0]


class DinoV2(nn.Module):
  """Computes 'features' [N, width] of normalised images x [N, H, W, 3].

  The features are the class token after the last layer norm. H and W are
  multiples of 14. The embeddings of grid x grid places are interpolated to the
  places of x (`interpolate_positions`). The defaults are ViT-L/14. ViT-B/14 has
  width 768, depth 12 and 12 heads; ViT-S/14 has width 384, depth 12, 6 heads.
  """

  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  grid: int = 37
  position_offset: float = 0.1

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    size = (PATCH, PATCH)
    h = nn.Conv(self.width, size, size, 'VALID', name='patches')(x)
    normal = nn.initializers.normal(0.02)
    first = self.param('class_token', normal, (self.width,))
    shape = (1 + self.grid**2, self.width)
    places = self.param('positions', normal, shape)
    grid = places[1:].reshape(self.grid, self.grid, self.width)
    grid = interpolate_positions(grid, h.shape[1:3], self.position_offset)
    h = (h + grid[None]).reshape(x.shape[0], -1, self.width)
    first = jnp.broadcast_to(first + places[0], (x.shape[0], 1, self.width))
    h = jnp.concatenate([first, h], axis=1)
    for i in range(self.depth):
      h = Block(self.num_heads, name=f'block_{i}')(h)
    # The norm acts on each token separately; only the class token is used.
    return {'features': layer_norm('norm')(h[:, 0])}


class Block(nn.Module):
  """Computes one block of tokens [N, T, D]: attention, then a GELU network.

  Each is a residual of its layer norm, times a learned scale of the channels
  (LayerScale).
  """

  num_heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = x.shape[-1]
    ones = nn.initializers.ones
    h = layer_norm('norm_1')(x)
    q, k, v = (
      split_heads(nn.Dense(width, name=name)(h), self.num_heads)
      for name in ('query', 'key', 'value')
    )
    h = nn.Dense(width, name='out')(attend(q, k, v))
    x = x + h * self.param('scale_1', ones, (width,))[None, None]
    h = nn.Dense(4 * width, name='mlp_in')(layer_norm('norm_2')(x))
    h = nn.Dense(width, name='mlp_out')(nn.gelu(h, approximate=False))
    return x + h * self.param('scale_2', ones, (width,))[None, None]


def interpolate_positions(grid: Array, shape: tuple[int, ...], offset: float = 0.1) -> Array:
  """Returns embeddings [h, w, D] of the places shape = (h, w).

  grid: [M, M, D]. The interpolation is bicubic (Keys, a = -3/4), not
  antialiased, and repeats the border: place i of h is at (i + 1/2) M / (h +
  offset) - 1/2. The published code of DINOv2 has the offset 0.1; transformers
  has 0, which gives other features. For h = w = M the grid is returned
  unchanged.
  """
  size = grid.shape[0]
  if shape == (size, size):
    return grid
  rows, columns = (jnp.asarray(_cubic(size, count, offset), jnp.float32) for count in shape)
  return jnp.einsum('hi,wj,ijd->hwd', rows, columns, grid)


def _cubic(size, count, offset):
  # The matrix [count, size] of the interpolation, float64.
  at = (np.arange(count) + 0.5) * size / (count + offset) - 0.5
  matrix = np.zeros((count, size))
  for tap in range(-1, 3):
    place = np.floor(at).astype(int) + tap
    weight = _keys(np.abs(at - place), -0.75)
    matrix[np.arange(count), np.clip(place, 0, size - 1)] += weight
  return matrix


def _keys(x, a):
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))

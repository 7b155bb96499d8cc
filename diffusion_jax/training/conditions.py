"""Conditions that are made of x_0: functions (key, x0) -> arrays [B, ...].

Masks are random, and True where a pixel is known.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core import operators
from diffusion_jax.core.checked import Key
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Size

Array = jax.Array


def draw_masks(key: Key, shape: tuple[int, ...]) -> Array:
  """Draws masks for images of `shape` [B, H, W, C], bool [B, H, W, 1].

  Half of the image, all but a box, or all but a brush stroke is known, with
  equal probabilities (Palette, Saharia et al. 2022, has boxes and strokes).
  key: [] or one per example, [B].
  """
  height, width = shape[1:3]

  def one(key):
    kind_key, key = jax.random.split(key)
    kind = jax.random.randint(kind_key, (), 0, 3)
    draws = [lambda draw=draw: draw(key, height, width) for draw in (half, box, stroke)]
    return jax.lax.switch(kind, draws)

  return jax.vmap(one)(key_per_example(key, shape[0]))


def half(key: Key, height: int, width: int) -> Array:
  """Draws the upper, lower, left or right half as known, [H, W, 1]; key: []."""
  rows, columns = _pixels(height, width)
  side = jax.random.randint(key, (), 0, 4)
  halves = [rows < 0.5, rows > 0.5, columns < 0.5, columns > 0.5]
  return jnp.stack(jnp.broadcast_arrays(*halves))[side]


def box(key: Key, height: int, width: int) -> Array:
  """Draws a mask where all but a box is known, [H, W, 1]; key: [].

  The sides of the box are uniform between a quarter and three quarters of the
  image's; its place is uniform.
  """
  rows, columns = _pixels(height, width)
  size, place = jax.random.uniform(key, (2, 2))
  size = 0.25 + 0.5 * size
  start = place * (1.0 - size)
  inside = (start[0] < rows) & (rows < start[0] + size[0])
  inside &= (start[1] < columns) & (columns < start[1] + size[1])
  return ~inside


def stroke(key: Key, height: int, width: int, num_corners: int = 5) -> Array:
  """Draws a mask where all but a brush stroke is known, [H, W, 1]; key: [].

  The brush follows lines between corners that are uniform in the image; its
  width is an eighth to a quarter of the image's.
  """
  corner_key, width_key = jax.random.split(key)
  corners = jax.random.uniform(corner_key, (num_corners, 1, 1, 2))
  radius = jax.random.uniform(width_key, (), minval=1 / 16, maxval=1 / 8)
  pixels = jnp.concatenate(jnp.broadcast_arrays(*_pixels(height, width)), -1)

  def distance(start, end):  # distance of each pixel to a line between two corners
    along = end - start
    ratio = jnp.sum((pixels - start) * along, axis=-1, keepdims=True)
    ratio = jnp.clip(ratio / jnp.sum(along**2), 0.0, 1.0)
    gap = pixels - start - ratio * along
    return jnp.sqrt(jnp.sum(gap**2, axis=-1, keepdims=True))

  distances = jax.vmap(distance)(corners[:-1], corners[1:])
  return jnp.min(distances, axis=0) > radius


def _pixels(height, width):
  # Returns centres of rows [H, 1, 1] and columns [1, W, 1], in (0, 1).
  rows = (jnp.arange(height) + 0.5) / height
  columns = (jnp.arange(width) + 0.5) / width
  return rows.reshape(-1, 1, 1), columns.reshape(1, -1, 1)


# (key [] or [B], x0 [B, H, W, C]) -> cond['image']
ImageCondition = Callable[[Array, Array], Array]


def known_pixels(x0: Array, mask: Array) -> Array:
  """Returns the condition of inpainting, [B, H, W, C + 1].

  It is the known pixels, 0 elsewhere, and the mask, 1 where a pixel is known
  (Palette, Saharia et al. 2022, has noise at the unknown pixels). x0: [B, H, W,
  C]; mask: broadcasts to [B, H, W, 1].
  """
  mask = jnp.broadcast_to(mask, (*x0.shape[:-1], 1))
  known = jnp.where(mask, x0, 0.0)
  return jnp.concatenate([known, mask.astype(x0.dtype)], axis=-1)


def enlarged(x: Array, factor: int) -> Array:
  """Repeats every pixel factor x factor times.

  Enlarged small images are the condition of super-resolution (SR3, Saharia et
  al. 2021, who enlarge by cubic splines).
  """
  return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


@declares(data='pictures')
def inpaint() -> ImageCondition:
  """Shows the network some pixels (Palette, Saharia et al. 2022)."""
  return lambda key, x0: known_pixels(x0, draw_masks(key, x0.shape))


@declares(data='pictures')
def superres(factor: Size = 2) -> ImageCondition:
  """Shows the network the image, `factor` times smaller (SR3)."""
  return lambda key, x0: enlarged(operators.pooled(x0, factor), factor)


@declares(data='pictures')
def colorize() -> ImageCondition:
  """Shows the network the image in grey."""
  return lambda key, x0: operators.luminance(x0)

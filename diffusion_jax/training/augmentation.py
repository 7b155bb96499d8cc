"""Non-leaky augmentation (Karras et al. 2022; for GANs: Karras et al. 2020).

Images are changed at random, and the network is conditioned on nine labels of
the changes. In sampling, labels of 0 give unchanged images.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from diffusion_jax.core.checked import Key
from diffusion_jax.core.keys import key_per_example

Array = jax.Array

# TensorFloat-32 or bfloat16 would change pixels by whole grey levels.
_FULL = jax.lax.Precision.HIGHEST

NUM_LABELS = 9

# Low-pass filter of the wavelet sym6, Daubechies' least asymmetric one with six
# vanishing moments.
SYM6 = np.array([
  0.015404109327027373, 0.0034907120842174702, -0.11799011114819057,
  -0.048311742585633, 0.4910559419267466, 0.787641141030194,
  0.3379294217276218, -0.07263752278646252, -0.021060292512300564,
  0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
_TAPS = len(SYM6)
_CENTRE = np.sum(np.arange(_TAPS) * SYM6) / np.sum(SYM6)


class Changes(NamedTuple):
  """Holds the changes of an image; all are 0 for no change.

  x_flip, y_flip: mirror; scale: by 2^(0.2 scale); angle: rotation,
  anticlockwise; stretch: by 2^(0.2 stretch) along an axis at the angle `axis`,
  and by the inverse across it; shift [2]: to the right and down, in eighths of
  the image.
  """

  x_flip: Array
  y_flip: Array
  scale: Array
  angle: Array
  stretch: Array
  axis: Array
  shift: Array


def augment(key: Key, images: Array, probability: float = 0.12) -> tuple[Array, Array]:
  """Returns (changed images, labels [B, 9] of the changes).

  images: [B, H, W, C] of any range; key: [] or one per example, [B];
  probability: see `draw_changes`.
  """

  def one(key, image):
    changes = draw_changes(key, probability)
    return apply_changes(image, changes), labels_of(changes)

  return jax.vmap(one)(key_per_example(key, len(images)), images)


def draw_changes(key: Key, probability: float = 0.12) -> Changes:
  """Draws the changes of one image, each with its probability, else 0.

  key: []. The x-flip is a fair coin. The others are drawn with `probability`,
  independently: the y-flip as a second fair coin, scale and stretch from
  N(0, 1), the angle from U(-pi, pi), the shift from N(0, I). The axis of a
  stretch is horizontal or, with probability 1/2, from U(-pi, pi).
  """
  value_key, coin_key, axis_key = jax.random.split(key, 3)
  keys = jax.random.split(value_key, 7)
  coins = jax.random.bernoulli(coin_key, probability, (5,))
  turn = functools.partial(jax.random.uniform, minval=-np.pi, maxval=np.pi)
  rotated = jax.random.bernoulli(axis_key)
  return Changes(
    x_flip=jax.random.bernoulli(keys[0]),
    y_flip=coins[0] & jax.random.bernoulli(keys[1]),
    scale=coins[1] * jax.random.normal(keys[2]),
    angle=coins[2] * turn(keys[3]),
    stretch=coins[3] * jax.random.normal(keys[4]),
    axis=(coins[3] & rotated) * turn(keys[5]),
    shift=coins[4] * jax.random.normal(keys[6], (2,)),
  )


def labels_of(changes: Changes) -> Array:
  """Returns the labels of changes for the network, [9]; 0 for no change."""
  c = changes
  flips = c.x_flip.astype(float), c.y_flip.astype(float)
  turn = jnp.cos(c.angle) - 1.0, jnp.sin(c.angle)
  stretch = c.stretch * jnp.cos(c.axis), c.stretch * jnp.sin(c.axis)
  return jnp.stack([*flips, c.scale, *turn, *stretch, *c.shift])


def apply_changes(image: Array, changes: Changes) -> Array:
  """Returns the changed image [H, W, C]; flips alone are exact."""
  c = changes
  image = jnp.where(c.x_flip, image[:, ::-1], image)
  image = jnp.where(c.y_flip, image[::-1], image)
  height, width, _ = image.shape
  half = jnp.exp2(-0.2 * c.stretch)
  squeeze = jnp.diag(jnp.stack([half, 1.0 / half]))
  factors = _rotation(c.angle), _rotation(-c.axis), squeeze, _rotation(c.axis)
  inverse = jnp.linalg.multi_dot(factors, precision=_FULL)
  inverse *= jnp.exp2(-0.2 * c.scale)
  shift = 0.125 * c.shift * jnp.array([width, height])
  rest = jnp.stack([c.scale, c.angle, c.stretch, *c.shift])
  return jnp.where(jnp.any(rest != 0.0), warp(image, inverse, shift), image)


def _rotation(angle):
  # Returns a matrix that acts on (x, y), y pointing down.
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def warp(image: Array, inverse: Array, shift: Array) -> Array:
  """Returns image(inverse (p - shift)), p = (x, y) from the centre in pixels.

  image: [H, W, C]; inverse: [2, 2]; shift: [2]. To avoid aliases, the wavelet
  sym6 doubles the resolution, pixels are read bilinearly, and sym6 halves it
  again. Beyond its edges the image is mirrored, repeatedly. The result has the
  image's type; the computation is in float32 or more.
  """
  dtype = image.dtype
  image = image.astype(jnp.promote_types(dtype, jnp.float32))
  height, width, _ = image.shape
  up_y, down_y = _resampling(height)
  up_x, down_x = _resampling(width)
  fine = jnp.einsum('ni,mj,ijc->nmc', up_y, up_x, image, precision=_FULL)
  x, y = jnp.meshgrid(_positions(width), _positions(height))
  shifted = jnp.stack([x - shift[0], y - shift[1]])
  x, y = jnp.einsum('ab,bnm->anm', inverse, shifted, precision=_FULL)
  at = [_sample_index(y, height), _sample_index(x, width)]
  read = functools.partial(map_coordinates, coordinates=at, order=1, mode='nearest')
  fine = jax.vmap(read, in_axes=-1, out_axes=-1)(fine)
  out = jnp.einsum('in,jm,nmc->ijc', down_y, down_x, fine, precision=_FULL)
  return out.astype(dtype)


def _resampling(size):
  # Returns matrices [2 size + 10, size] and back. Their product is 1, because
  # sym6 is orthonormal to its even shifts.
  reach = _TAPS // 2
  n = np.arange(2 * size + _TAPS - 2)[:, None]
  k = np.arange(-reach, size + reach)[None]
  tap = n - 2 * k
  inside = (tap >= 0) & (tap < _TAPS)
  band = np.where(inside, SYM6[np.clip(tap, 0, _TAPS - 1)], 0.0)
  mirrored = np.pad(np.eye(size), ((reach, reach), (0, 0)), mode='reflect')
  up, down = band @ mirrored, band[:, reach : size + reach].T
  return jnp.asarray(up, float), jnp.asarray(down, float)


def _positions(size):
  # Returns the samples at double resolution, in pixels from the centre.
  n = np.arange(2 * size + _TAPS - 2)
  return jnp.asarray((n - _CENTRE) / 2.0 - (size - 1) / 2.0, float)


def _sample_index(position, size):
  # Inverts _positions. Beyond all samples it is mirrored at the outermost
  # pixels, which are at -last / 2 and last / 2.
  last = size - 1.0
  direct = 2.0 * position + last + _CENTRE
  past = jnp.maximum(-direct, direct - (2.0 * size + _TAPS - 3))
  mirrored = last - jnp.abs(jnp.mod(position + last / 2.0, 2.0 * last) - last)
  beyond = past > 0.01  # more than by rounding
  return jnp.where(beyond, 2.0 * mirrored + _CENTRE, direct)

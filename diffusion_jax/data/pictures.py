"""Pictures, masks and measurements that a user gives, in the shape of a model's images."""

from pathlib import Path

import numpy as np

from diffusion_jax.data import images, npz
from diffusion_jax.data.spec import ArraySpec


def read_picture(path: str, field: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads a picture, uint8 of `shape`; field: what it is, for messages.

  Makes colours grey, or repeats grey, as the shape needs it, and prints that.
  Raises ValueError for another size.
  """
  height, width, channels = shape
  picture = images.read_image(str(Path(path).expanduser()))
  h, w = picture.shape[:2]
  if (h, w) != (height, width):
    raise ValueError(
      f'{field} {path} has {w}x{h} pixels (width x height), {width}x{height} '
      'are needed: scale or crop it'
    )
  coloured = (picture != picture[..., :1]).any()
  if coloured and channels == 1:
    print(f'{path}: its colours are left out, grey is their luma')
    return images.with_channels(picture, 1)
  if not coloured and channels == 3:
    print(f'{path}: it is grey, each channel is taken to be the same')
  return picture[..., :channels]


def read_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads a mask, bool [H, W, 1]: True, known, where the file is white.

  If it has transparent pixels: where it is opaque, in any colour.
  """
  white = read_picture(path, 'mask', (*shape[:2], 1)) >= 128
  alpha = images.read_alpha(Path(path).expanduser())
  mask, word = white, 'white'
  if alpha is not None:
    mask, word = alpha >= 128, 'opaque'
    if mask.any() and not (white & mask).any():
      raise ValueError(
        f'mask {path} is black on transparent, which can be read both ways: '
        'make known pixels white and the others black'
      )
  print(f'{path}: {word} is known, {mask.mean():.0%} of the pixels')
  if mask.all():
    raise ValueError(
      f'mask {path} is {word} everywhere: {word} pixels stay unchanged, so '
      'nothing would be filled in'
    )
  return mask


def read_array(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads an array of `shape` from a .npy file; ValueError for any other."""
  if Path(path).suffix != '.npy':
    raise ValueError(f'{path} is not a .npy file, which data other than pictures need')
  x = npz.read_array(path, 'x')
  if x.shape != tuple(shape):
    raise ValueError(f'{path} has the shape {x.shape}, {shape} is needed')
  return x


def read_measurement(path: str, shape: tuple[int, ...], values: ArraySpec) -> np.ndarray:
  """Reads a picture in [-1, 1], or an array in its own units."""
  if Path(path).suffix == '.npy' or not values.is_picture:
    return read_array(path, shape)  # refuses other files
  if len(shape) != 3 or shape[-1] not in (1, 3):
    raise ValueError(
      f'{path}: this operator measures an array {shape}, not a '
      f'picture: give a .npy file, or simulate=True with clean pictures'
    )
  return images.PICTURES.encode(read_picture(path, 'image', shape))


def as_picture(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a picture or mask in the size and channels of a shape, uint8."""
  height, _, channels = shape
  x = np.where(x, np.uint8(255), np.uint8(0)) if x.dtype == bool else x
  factor = height // x.shape[0]
  x = x.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(x, (*x.shape[:2], channels))


def shrink_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a mask [h, w, 1], True for latents whose pixels are all True."""
  h, w = shape[:2]
  blocks = mask.reshape(h, len(mask) // h, w, mask.shape[1] // w, 1)
  small = np.asarray(blocks.all(axis=(1, 3)))
  print(f'in latents {small.mean():.0%} are known')
  return small

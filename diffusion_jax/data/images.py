"""Pictures: numbers in [-1, 1] <-> grey levels <-> files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def scale(images: np.ndarray, num_levels: int = 256) -> np.ndarray:
  """Levels 0..num_levels - 1 -> float32 in [-1, 1]."""
  return images.astype(np.float32) * (2.0 / (num_levels - 1)) - np.float32(1.0)


def quantize(images: np.ndarray, num_levels: int = 256) -> np.ndarray:
  """[-1, 1], clipped -> the nearest of num_levels levels, uint8."""
  unit = (np.clip(np.asarray(images, np.float64), -1.0, 1.0) + 1.0) / 2.0
  return np.rint(unit * (num_levels - 1)).astype(np.uint8)


def to_uint8(images: np.ndarray, num_levels: int = 256) -> np.ndarray:
  """[-1, 1] -> rounded to num_levels grey levels -> stretched to 0..255."""
  levels = quantize(images, num_levels).astype(np.float64)
  return np.rint(levels * (255.0 / (num_levels - 1))).astype(np.uint8)


def read_image(path: str | Path) -> np.ndarray:
  """A picture file -> uint8 [H, W, 3], turned as its EXIF tag says.

  Raises FileNotFoundError or ValueError, each naming the file.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  if not Path(path).is_file():
    raise FileNotFoundError(f'there is no image {path}')
  try:
    with Image.open(path) as image:
      return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
  except UnidentifiedImageError:
    raise ValueError(f'{path} is not an image that Pillow can read') from None
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(f'{path} is damaged or unreadable: {error}') from None


def fit(image: np.ndarray, size: int, how: str = 'crop') -> np.ndarray:
  """uint8 [H, W, 3] -> [size, size, 3].

  'crop' scales the shorter side to `size` and keeps the centre; 'scale'
  stretches both sides to `size`.
  """
  from PIL import Image

  if how not in ('crop', 'scale'):
    raise ValueError(f"fit {how!r} is not one of 'crop', 'scale'")
  if how == 'crop':
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
  picture = Image.fromarray(image)
  return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def grid(images: np.ndarray, columns: int, zoom: int = 1) -> np.ndarray:
  """uint8 [N, H, W, C] -> one picture, row by row, on a dark ground.

  Images are `zoom` times enlarged and one grid line (zoom pixels, at least one
  per 16 of an image) apart.
  """
  n, height, width, channels = images.shape
  rows = -(-n // columns)
  gap = max(1, height // 16)
  sheet = np.full(
    (rows * (height + gap) + gap, columns * (width + gap) + gap, channels),
    32,
    np.uint8,
  )
  for i, image in enumerate(images):
    top = gap + (i // columns) * (height + gap)
    left = gap + (i % columns) * (width + gap)
    sheet[top : top + height, left : left + width] = image
  return sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)


def write_png(path: str | Path, image: np.ndarray) -> None:
  """uint8 [H, W], [H, W, 1] or [H, W, 3] -> a PNG file."""
  _picture(image).save(path, format='PNG')


def write_gif(
  path: str | Path, frames: Sequence[np.ndarray], milliseconds: int = 80
) -> None:
  """uint8 frames -> a GIF that loops and rests on its last frame."""
  first, *rest = [_picture(frame) for frame in frames]
  durations = [milliseconds] * len(rest) + [20 * milliseconds]
  first.save(
    path,
    format='GIF',
    save_all=True,
    append_images=rest,
    duration=durations,
    loop=0,
  )


def _picture(image):
  from PIL import Image

  image = np.asarray(image)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  return Image.fromarray(image)

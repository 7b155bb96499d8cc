"""Pictures: numbers in [-1, 1] <-> grey levels <-> files."""

import contextlib
import warnings
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

  Grey of 10, 12 or 16 bits is scaled to 8, and transparent pixels lie on white.
  Raises FileNotFoundError or ValueError, each naming the file; ValueError also
  for pixels whose range is not known, as those of a float TIFF.
  """
  from PIL import Image

  image = _load(path)
  if image.mode == 'RGBA':
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return np.asarray(image.convert('RGB'))


def read_alpha(path: str | Path) -> np.ndarray | None:
  """The alpha channel of a picture file, uint8 [H, W, 1], 255 being opaque.

  None where the whole picture is opaque. Turned and raising as `read_image`.
  """
  image = _load(path)
  alpha = np.asarray(image)[..., 3:]
  return None if alpha.shape[-1] == 0 or alpha.min() == 255 else alpha


# what Pillow converts to RGB and RGBA without a loss of range
_EIGHT_BITS = (
  '1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBX', 'RGBA', 'RGBa', 'CMYK', 'YCbCr',
  'HSV',
)  # fmt: skip


def _load(path):
  # a picture file -> a Pillow image, RGBA where it has transparency, else RGB
  from PIL import Image, ImageOps

  if not Path(path).is_file():
    raise FileNotFoundError(f'there is no image {path}')
  # Pillow warns from half of the size on at which it refuses
  warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
  with _naming(path):
    opened = Image.open(path)
  with opened as image:
    limits = _black_and_white(image)
    if image.mode not in _EIGHT_BITS and limits is None:
      raise ValueError(
        f'{path} has pixels of mode {image.mode}, whose range is not known: '
        'save it with 8 or 16 bits per channel'
      )
    with _naming(path):
      turned = ImageOps.exif_transpose(image)
      if limits is not None:
        turned = _as_eight_bits(turned, *limits)
      return turned.convert('RGBA' if turned.has_transparency_data else 'RGB')


@contextlib.contextmanager
def _naming(path):
  # what Pillow raises -> a ValueError with the name of the file
  from PIL import Image, UnidentifiedImageError

  try:
    yield
  except UnidentifiedImageError:
    raise ValueError(f'{path} is not an image that Pillow can read') from None
  except Image.DecompressionBombError:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    raise ValueError(
      f'{path} has more than {limit:,} pixels: make it smaller'
    ) from None
  # ValueError: what Pillow says of some damaged headers
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(f'{path} is damaged or unreadable: {error}') from None


def _black_and_white(image):
  # these two levels of grey in more than 8 bits; None for any other picture
  if image.mode.startswith('I;16'):
    tags = getattr(image, 'tag_v2', {})  # of a TIFF
    top = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    white_is_zero = tags.get(262) == 0  # PhotometricInterpretation
    return (top, 0) if white_is_zero else (0, top)
  # Pillow stretches PGM to 16 bits; signed or 32 bits of TIFF are this mode too
  return (0, 65535) if (image.mode, image.format) == ('I', 'PPM') else None


def _as_eight_bits(image, black, white):
  # grey of more bits, of which one level may be transparent -> 'L' or 'LA'
  from PIL import Image

  levels = np.asarray(image, np.float64)
  grey = (levels - black) * (255.0 / (white - black))
  picture = Image.fromarray(np.rint(grey).astype(np.uint8))
  if 'transparency' in image.info:
    opaque = levels != image.info['transparency']
    picture.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
  return picture


def photo_path(name: str) -> str:
  """A file of the user's, or one of the photos that ship with scikit-learn."""
  if name not in ('china.jpg', 'flower.jpg'):
    return str(Path(name).expanduser())
  from importlib.resources import files

  return str(files('sklearn.datasets') / 'images' / name)


def fit(
  image: np.ndarray, size: int | tuple[int, int], how: str = 'crop'
) -> np.ndarray:
  """uint8 [h, w, 3] -> [H, W, 3]; size: (H, W), or one number for both.

  'crop' keeps the largest centred part that has the proportions of `size` and
  scales it; 'scale' stretches both sides.
  """
  from PIL import Image

  if how not in ('crop', 'scale'):
    raise ValueError(f"fit {how!r} is not one of 'crop', 'scale'")
  height, width = (size, size) if isinstance(size, int) else size
  if how == 'crop':
    h, w = image.shape[:2]
    rows = min(h, max(1, round(w * height / width)))
    columns = min(w, max(1, round(h * width / height)))
    top, left = (h - rows) // 2, (w - columns) // 2
    image = image[top : top + rows, left : left + columns]
  picture = Image.fromarray(image)
  return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [H, W, 1 or 3] -> [H, W, channels]: colour to luma, or grey thrice.

  Raises ValueError for other numbers of channels.
  """
  if {image.shape[-1], channels} - {1, 3}:
    raise ValueError(
      f'pictures of {image.shape[-1]} channels cannot become {channels}: '
      '1 and 3 are possible'
    )
  if image.shape[-1] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=-1)
  return np.asarray(_picture(image).convert('L'))[..., None]


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

"""Pictures and their files, uint8 [H, W, C]."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffusion_jax.data.set_files import is_said, say_left_out, say_once
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.errors import naming, reason_of
from diffusion_jax.paths import existing
from diffusion_jax.ranges import check_choice

# Pictures of any shape: encode to [-1, 1], decode to uint8.
PICTURES = ArraySpec((), 256)


def read_image(path: str | Path) -> np.ndarray:
  """Reads an image file as uint8 [H, W, 3], rotated as its EXIF tag says.

  Grey of 10, 12 or 16 bits is scaled to 8 bits, and transparent pixels get a
  white background. Raises FileNotFoundError, or ValueError for damaged files
  and pixels of unknown range (a float TIFF), with the name of the file.
  """
  existing(path, 'image', Path.is_file)
  return _on_white(_load(path, path))


def decode_image(data: bytes, name: str) -> np.ndarray:
  """Decodes the bytes of an image file as `read_image` reads a file.

  name: what messages call the image.
  """
  return _on_white(_load(io.BytesIO(data), name))


def read_alpha(path: str | Path) -> np.ndarray | None:
  """Reads the alpha channel of an image file, uint8 [H, W, 1], 255 is opaque.

  Returns None if the whole image is opaque. Rotates and raises as `read_image`.
  """
  existing(path, 'image', Path.is_file)
  alpha = np.asarray(_load(path, path))[..., 3:]
  return None if alpha.shape[-1] == 0 or alpha.min() == 255 else alpha


# Pillow converts these modes to RGB and RGBA without loss of range.
_EIGHT_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBX', 'RGBA', 'RGBa', 'CMYK', 'YCbCr', 'HSV')
# Formats of grey above 8 bits, unsigned; Pillow scales PGM to 16 bits.
_SIXTEEN_BITS = {'I;16': ('PNG', 'TIFF', 'PPM', 'JPEG2000'), 'I': ('PPM',)}


def _on_white(image):
  from PIL import Image

  if image.mode == 'RGBA':
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  return np.asarray(image.convert('RGB'))


def check_picture(file: str | Path | bytes, name: str, pixels: bool) -> None:
  """Raises ValueError for a damaged header or, if `pixels`, damaged pixels."""
  stream = io.BytesIO(file) if isinstance(file, bytes) else file
  with _opened(stream, name) as image:
    _range(image, name)
    if pixels:
      with _naming(name):
        image.draft('L', (1, 1))  # A JPEG decodes faster at 1/8 of its size.
        image.load()


def _opened(file, name):
  from PIL import Image, PngImagePlugin

  is_bytes = isinstance(file, io.BytesIO)
  size = file.getbuffer().nbytes if is_bytes else os.path.getsize(file)
  # A profile or a comment may have 64 MiB, or the size of the file.
  most = max(size, PngImagePlugin.MAX_TEXT_MEMORY)
  PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = most
  # Pillow warns from half the size at which it raises an error.
  warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
  with _naming(name):
    return Image.open(file)


def _load(file, name):
  # Returns a Pillow image, RGBA if the file has transparency, otherwise RGB.
  from PIL import ImageOps

  with _opened(file, name) as image:
    limits, deep = _range(image, name), ';16' in f'{image.mode}{image.tile}'
    _say_frames(image, name)
    with _naming(name):
      turned = ImageOps.exif_transpose(image)
      if limits != (0, 255):
        turned = _as_eight_bits(turned, *limits)
      picture = turned.convert('RGBA' if turned.has_transparency_data else 'RGB')
  if deep:
    _say_narrow(picture, name)
  return picture


def _say_frames(image, name):
  # Counts frames once, as that reads the whole file.
  if is_said('frames') or image.format == 'MPO':  # a picture and other forms of it
    return
  with contextlib.suppress(Exception):  # Only the first frame need be intact.
    try:
      total = getattr(image, 'n_frames', 1)
    finally:
      image.seek(0)
    say_left_out(name, total - 1, total, 'frames', why='the first is the picture', once='frames')


def _say_narrow(picture, name):
  low, high = picture.convert('L').getextrema()
  if high - low <= 16:  # 12 bits of 16
    line = f'{name} has 16 bits and keeps levels {low}..{high} of 0..255, '
    line += 'nearly one colour: if it uses few of 65,536 levels, scale it first'
    say_once(line, 'narrow')


def _naming(name):
  from PIL import Image

  def reason(error):
    unknown = isinstance(error, Image.UnidentifiedImageError)
    return 'its format is unknown' if unknown else reason_of(error)

  return naming(f'{name} cannot be read as an image', reason)


def _range(image, name):
  # Returns the levels of black and white: (0, 255), except for grey of more than 8 bits.
  tags = getattr(image, 'tag_v2', {})  # only of a TIFF
  kinds = {*tags.get(339, (1,))}  # SampleFormat: 1 unsigned, 2 signed, 3 float
  unsigned = kinds == {1}
  if unsigned and image.mode in _EIGHT_BITS:
    return 0, 255
  if unsigned and image.format in _SIXTEEN_BITS.get(image.mode[:4], ()):
    top = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    white_is_zero = tags.get(262) == 0  # PhotometricInterpretation
    return (top, 0) if white_is_zero else (0, top)
  raise ValueError(
    f'{name} has {"signed " * (2 in kinds)}pixels of mode {image.mode}, whose '
    'range is unknown: save it with 8 or 16 bits per channel, unsigned'
  )


def _as_eight_bits(image, black, white):
  # Returns a picture 'L', or 'LA' if one level of grey is transparent.
  from PIL import Image

  levels = np.asarray(image, np.float64)
  grey = (levels - black) * (255.0 / (white - black))
  picture = Image.fromarray(np.rint(grey).astype(np.uint8))
  if 'transparency' in image.info:
    opaque = levels != image.info['transparency']
    picture.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
  return picture


def photo_path(name: str) -> str:
  """Returns the path of a file, or of scikit-learn's china.jpg, flower.jpg."""
  if name not in ('china.jpg', 'flower.jpg'):
    return str(Path(name).expanduser())
  from importlib.resources import files

  return str(files('sklearn.datasets') / 'images' / name)


def fit(image: np.ndarray, size: int | tuple[int, int], how: str = 'crop') -> np.ndarray:
  """Resizes uint8 [h, w, 3] to [H, W, 3]; size: (H, W), or one side of both.

  'crop' resizes the largest centred part with the proportions of `size`;
  'scale' resizes the whole image and may change its proportions.
  """
  from PIL import Image

  check_choice('how', how, ('crop', 'scale'))
  height, width = (size, size) if isinstance(size, int) else size
  if how == 'crop':
    h, w = image.shape[:2]
    rows = min(h, max(1, round(w * height / width)))
    columns = min(w, max(1, round(h * width / height)))
    top, left = (h - rows) // 2, (w - columns) // 2
    image = image[top : top + rows, left : left + columns]
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Converts uint8 [H, W, 1 or 3] to [H, W, channels], luma or repeated grey.

  Raises ValueError for other numbers of channels.
  """
  if {image.shape[-1], channels} - {1, 3}:
    raise ValueError(
      f'cannot convert {image.shape[-1]} channels to {channels}: images must have 1 or 3'
    )
  if image.shape[-1] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=-1)
  from PIL import Image

  return np.asarray(Image.fromarray(image).convert('L'))[..., None]


def resized(pictures: Iterable[np.ndarray], image_shape: tuple[int, ...]) -> np.ndarray:
  """Crops and resizes pictures, uint8 [h, w, 1 or 3], to [n, H, W, C]."""
  *size, channels = image_shape
  return np.stack(
    [
      with_channels(fit(with_channels(picture, 3), (size[0], size[1])), channels)
      for picture in pictures
    ]
  )

"""Encodes pictures as data URIs, and series of pictures as films."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.runtime.files import open_regular

# Longer texts become WebP, a tenth of the size of PNG for photos.
_LARGE = 80_000


class Film(NamedTuple):
  """The frames of a slider, (data URI, label).

  about: what all frames show. left_out: the number of frames that were left
  out. width: pixels.
  """

  title: str
  about: str
  frames: list[tuple[str, str]]
  left_out: int
  width: int


def film(
  title: str,
  about: str,
  pictures: Sequence[tuple[str, Path | np.ndarray]],
  most_bytes: int = 1_500_000,
  most: int = 60,
) -> Film | None:
  """Makes a film of (label, file or uint8 [H, W, C]); None without pictures.

  Keeps at most `most` frames and about `most_bytes`, evenly spread, with the
  first and the last. Damaged files are left out.
  """
  frames, width = [], 0
  for label, picture in spread(pictures, most):
    try:
      content, width = source(picture)
    except Exception:  # Pillow raises many for a damaged file.
      continue
    frames.append((content, label))
  if not frames:
    return None
  size = sum(len(content) for content, _ in frames)
  if size > most_bytes:
    frames = spread(frames, max(2, int(len(frames) * most_bytes / size)))
  return Film(title, about, frames, len(pictures) - len(frames), width)


def spread(items: Sequence, most: int) -> list:
  """Returns at most `most` evenly spread items, with both ends."""
  count = min(len(items), most)
  return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]


def source(picture: Path | np.ndarray) -> tuple[str, int]:
  """Returns (data URI, width) of a file or of uint8 [H, W, C].

  Raises OSError, ValueError or SyntaxError for a file that is not a PNG.
  """
  from PIL import Image

  if isinstance(picture, Path):
    file = open_regular(picture, 2**28)
    with file, Image.open(file, formats=['PNG']) as opened:
      if opened.width * opened.height > 2**26:
        raise ValueError(f'{picture} is too large')
      image = opened.convert('L' if opened.mode in ('1', 'L') else 'RGB')
  else:
    array = picture[..., 0] if picture.shape[-1] == 1 else picture
    image = Image.fromarray(array)
  uri = as_uri(image, optimize=True)
  if len(uri) > _LARGE:
    image.thumbnail((1280, 1280))
    uri = min(uri, as_uri(image, 'webp', quality=85), key=len)
  return uri, image.width


def as_uri(image: Any, kind: str = 'png', **options: object) -> str:
  """Returns a picture of Pillow as a data URI."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return f'data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}'

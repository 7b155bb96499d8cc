"""Turns pictures into data URIs, and series of them into films."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Larger files become WebP, which is a tenth of PNG for photos.
_LARGE = 60_000


class Frame(NamedTuple):
  """Holds a picture as a data URI, and what is said of it."""

  source: str
  label: str


class Film(NamedTuple):
  """Holds the frames of a slider; about: what all of them show.

  left_out: how many further frames there are. width: in pixels.
  """

  title: str
  about: str
  frames: list[Frame]
  left_out: int
  width: int


def film(
  title: str,
  about: str,
  pictures: Sequence[tuple[str, Path | np.ndarray]],
  most_bytes: int = 1_500_000,
  most: int = 60,
) -> Film | None:
  """Makes a film of (label, file or uint8 [H, W, C]); None without a picture.

  It has at most so many frames and about so many bytes: what is more is left
  out, evenly, but for the first and the last. Files that are damaged are left
  out too.
  """
  found = list(pictures)
  frames = [frame for frame in map(_frame, spread(found, most)) if frame]
  if not frames:
    return None
  size = sum(len(frame.source) for frame, _ in frames)
  if size > most_bytes:
    frames = spread(frames, max(2, int(len(frames) * most_bytes / size)))
  kept = [frame for frame, _ in frames]
  return Film(title, about, kept, len(found) - len(kept), frames[-1][1])


def spread(items: Sequence, most: int) -> list:
  """Returns at most so many items, evenly, with the first and the last."""
  if len(items) <= most:
    return list(items)
  index = np.rint(np.linspace(0, len(items) - 1, most)).astype(int)
  return [items[i] for i in index]


def source(picture: Path | np.ndarray) -> tuple[str, int]:
  """Returns (data URI, width) of a file or of uint8 [H, W, C].

  Raises OSError or ValueError for what is no picture.
  """
  from PIL import Image

  if isinstance(picture, Path):
    with Image.open(picture) as opened:
      image = opened.convert('L' if opened.mode in ('1', 'L') else 'RGB')
  else:
    array = picture[..., 0] if picture.shape[-1] == 1 else picture
    image = Image.fromarray(array)
  content, kind = _encode(image, 'PNG', optimize=True), 'png'
  if len(content) > _LARGE:
    image.thumbnail((1280, 1280))
    small = _encode(image, 'WEBP', quality=85)
    if len(small) < len(content):
      content, kind = small, 'webp'
  text = base64.b64encode(content).decode()
  return f'data:image/{kind};base64,{text}', image.width


def gif_frames(path: Path) -> Iterable[np.ndarray]:
  """Yields the frames of a GIF, uint8 [H, W, C]."""
  from PIL import Image, ImageSequence

  with Image.open(path) as image:
    grey = image.mode == 'L'
    for frame in ImageSequence.Iterator(image):
      array = np.asarray(frame.convert('L' if grey else 'RGB'))
      yield array[..., None] if grey else array


def _frame(labelled):
  label, picture = labelled
  try:
    content, width = source(picture)
  except (OSError, ValueError, SyntaxError):  # as Pillow raises
    return None
  return Frame(content, label), width


def _encode(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()

"""Text files as sequences of bytes, and pictures of such sequences."""

import contextlib
import functools
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from diffusion_jax.data.set_files import check_text, files_below, say_once, taken_below
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.data.splits import check_fraction, check_split
from diffusion_jax.declared import declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Rate, Size, check_choice

SUFFIXES = '.txt', '.md', '.rst', '.py'
UNKNOWN = 128  # no character; drawn as a grey cell
_HEIGHT, _WIDTH = 12, 7  # pixels of a drawn character


@declares(
  what=(
    'the bytes of text files, in pieces of `data.length`, or with `data.pieces=lines` line by '
    'line, for [discrete states](discrete.md)'
  ),
  needs='nothing; or `data.path`, a file or a folder',
)
def text_files(
  split: str = 'train',
  path: ReadPath = '',
  length: Size = 128,
  test_fraction: Rate = 0.1,
  pieces: Literal['equal', 'lines'] = 'equal',
) -> ArraySource:
  """Reads text files as sequences of bytes, uint8 [length].

  path: a file in UTF-8, or a folder whose .txt, .md, .rst and .py files are read; '' is
  the licence, the README and the modules of this package as installed. All
  files are joined and cut into pieces; the test split is the last test_fraction
  of them. pieces: of equal length, or lines, which have lengths of their own: empty ones are
  left out, and the end of longer ones is cut off. Raises ValueError or FileNotFoundError.
  """
  check_split(split)
  check_choice('pieces', pieces, ('equal', 'lines'))
  check_fraction(test_fraction, split, path or 'the text of the package')
  data = _read(path) if path else _own_text()
  texts, lengths = _lines(data, length, path) if pieces == 'lines' else (_equal(data, length), None)
  count = len(texts)
  end = count - round(count * test_fraction)
  chosen = slice(end) if split == 'train' else slice(end, count)
  if not len(texts[chosen]):
    raise ValueError(
      f'{path or "the package"} has {len(data):,} bytes of text, too few for '
      f'a {"line" if pieces == "lines" else f"piece of {length} bytes"} in the {split} split: give '
      'more text or a smaller length'
    )
  return ArraySource(texts[chosen], length=None if lengths is None else lengths[chosen])


def _equal(data, length):
  count = len(data) // length
  return np.frombuffer(data, np.uint8)[: count * length].reshape(count, length)


def _lines(data, length, path):
  # Returns the lines that are not blank, uint8 [N, length], and their lengths in bytes.
  lines = [*filter(None, (line.rstrip() for line in data.splitlines()))]
  long = sum(len(line) > length for line in lines)
  if long:
    say_once(
      f'{path or "the text of the package"}: {long:,} of {len(lines):,} lines are longer than '
      f'data.length={length} bytes: their ends are cut off'
    )
  # A character is not cut in two.
  lines = [line[:length].decode(errors='ignore').encode() for line in lines]
  lines = [*filter(None, lines)]
  texts = np.frombuffer(b''.join(line.ljust(length, b'\0') for line in lines), np.uint8)
  return texts.reshape(-1, length), np.array([*map(len, lines)], np.int32)


def _read(path):
  place = Path(path).expanduser()
  files = [place]
  if place.is_dir():
    files = sorted(place / name for name in taken_below(place, SUFFIXES))
    files = [file for file in files if file.is_file()]
  texts = [file.read_bytes() for file in files]
  for file, text in zip(files, texts, strict=True):
    check_text(file, text, cut=True)  # as of the first 10^8 bytes of a longer text
  return b'\n'.join(texts)


def _own_text():
  # Returns the licence, the README and the modules of the package.
  parts = []
  with contextlib.suppress(metadata.PackageNotFoundError):  # a checkout
    installed = metadata.distribution('diffusion-jax')
    licences = [p for p in installed.files or () if p.name == 'LICENSE']
    parts += [p.read_text() for p in licences]
    parts.append(installed.metadata.json.get('description', ''))
  top = Path(__file__).parents[1]
  own = [file.read_bytes() for file in sorted(top / name for name in files_below(top, SUFFIXES))]
  return b'\n'.join([*(str(part).encode() for part in parts), *own])


def printable(text: str) -> str:
  """Replaces characters that control a terminal, except newlines, by U+FFFD."""
  return ''.join(c if c.isprintable() or c == '\n' else '\N{REPLACEMENT CHARACTER}' for c in text)


def draw_bytes(texts: np.ndarray, columns: int = 32) -> np.ndarray:
  """Draws texts, uint8 [N, L], as pictures uint8 [N, H, W, 1].

  A line has `columns` characters. Bytes outside of ASCII are blank, except
  UNKNOWN.
  """
  lines = -(-texts.shape[1] // columns)
  padding = lines * columns - texts.shape[1]
  texts = np.pad(texts, ((0, 0), (0, padding)), constant_values=ord(' '))
  cells = _glyphs()[texts.reshape(len(texts), lines, columns)]
  height, width = lines * _HEIGHT, columns * _WIDTH
  return cells.swapaxes(2, 3).reshape(len(texts), height, width, 1)


@functools.cache
def _glyphs() -> np.ndarray:
  # Returns the drawn bytes, uint8 [256, height, width].
  from PIL import Image, ImageDraw, ImageFont

  font = ImageFont.load_default()
  glyphs = np.zeros((256, _HEIGHT, _WIDTH), np.uint8)
  for code in range(32, 127):
    cell = Image.new('L', (_WIDTH, _HEIGHT))
    ImageDraw.Draw(cell).text((0, 0), chr(code), 255, font)
    glyphs[code] = np.asarray(cell)
  glyphs[UNKNOWN, 1:-1, 1:-1] = 96
  return glyphs

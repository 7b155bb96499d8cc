"""Pictures and films of a page come back from it, and stay small."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.data import drawings
from diffusion_jax.report import pictures


def test_a_picture_comes_back_from_its_uri():
  grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
  source, width = pictures.source(grey)
  assert source.startswith('data:image/png;base64,') and width == 8
  file = io.BytesIO(base64.b64decode(source.partition(',')[2]))
  assert_array_equal(Image.open(file), grey[..., 0])


def test_a_large_photo_becomes_small(tmp_path):
  """Noise is the worst case; files and arrays give the same."""
  noise = np.random.default_rng(0).integers(0, 256, (400, 1500, 3), np.uint8)
  drawings.write_png(tmp_path / 'a.png', noise)
  source, width = pictures.source(tmp_path / 'a.png')
  assert source.startswith('data:image/webp') and width == 1280


@pytest.mark.parametrize('side', [9_000, 30_000])
def test_a_picture_that_would_fill_the_memory_is_left_out(side, tmp_path):
  """The file has 100 bytes, and its header says that it is large."""
  path = tmp_path / 'step_1.png'
  drawings.write_png(path, np.zeros((8, 8), np.uint8))
  data = path.read_bytes()
  head = data[12:16] + struct.pack('>II', side, side) + data[24:29]
  crc = struct.pack('>I', zlib.crc32(head))
  path.write_bytes(data[:12] + head + crc + data[33:])
  with pytest.raises((ValueError, Image.DecompressionBombError)):
    pictures.source(path)
  assert pictures.film('title', 'about', [('x', path)]) is None


def test_a_picture_of_another_kind_is_not_opened(tmp_path):
  """Pillow would give EPS to Ghostscript."""
  Image.new('RGB', (8, 8)).save(tmp_path / 'step_1.png', 'EPS')
  assert pictures.film('title', '', [('x', tmp_path / 'step_1.png')]) is None


def test_a_film_keeps_its_ends_and_its_limits(tmp_path):
  (tmp_path / 'damaged.png').write_bytes(b'\x89PNG no')
  frames = [(f'{i}', np.full((4, 4, 1), i, np.uint8)) for i in range(100)]
  film = pictures.film('title', 'about', frames, most=10)
  assert [film.frames[0][1], film.frames[-1][1]] == ['0', '99']
  assert len(film.frames) == 10 and film.left_out == 90 and film.width == 4
  size = len(film.frames[0][0])
  film = pictures.film('title', 'about', frames, most_bytes=5 * size, most=99)
  assert 2 <= len(film.frames) <= 5
  damaged = 'x', tmp_path / 'damaged.png'
  film = pictures.film('title', 'about', [damaged, *frames[:2]])
  assert [label for _, label in film.frames] == ['0', '1']
  assert pictures.film('title', 'about', []) is None

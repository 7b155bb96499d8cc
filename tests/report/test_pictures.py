import base64
import io

import numpy as np
from PIL import Image

from diffusion_jax.data import images
from diffusion_jax.report import pictures


def decode(source):
  content = base64.b64decode(source.partition(',')[2])
  return np.asarray(Image.open(io.BytesIO(content)))


def test_a_picture_comes_back_from_its_uri():
  grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
  source, width = pictures.source(grey)
  assert source.startswith('data:image/png;base64,') and width == 8
  np.testing.assert_array_equal(decode(source), grey[..., 0])


def test_a_large_photo_becomes_small(tmp_path):
  """Noise is the worst case; files and arrays give the same."""
  noise = np.random.default_rng(0).integers(0, 256, (400, 1500, 3), np.uint8)
  images.write_png(tmp_path / 'a.png', noise)
  source, width = pictures.source(tmp_path / 'a.png')
  assert source.startswith('data:image/webp') and width == 1280


def test_a_film_keeps_its_ends_and_its_limits(tmp_path):
  (tmp_path / 'damaged.png').write_bytes(b'\x89PNG no')
  frames = [(f'{i}', np.full((4, 4, 1), i, np.uint8)) for i in range(100)]
  film = pictures.film('title', 'about', frames, most=10)
  assert [film.frames[0][1], film.frames[-1][1]] == ['0', '99']
  assert len(film.frames) == 10 and film.left_out == 90 and film.width == 4
  size = len(film.frames[0][0])
  film = pictures.film('title', 'about', frames, most_bytes=5 * size, most=99)
  assert 2 <= len(film.frames) <= 5
  film = pictures.film(
    'title', 'about', [('x', tmp_path / 'damaged.png'), *frames[:2]]
  )
  assert [label for _, label in film.frames] == ['0', '1']
  assert pictures.film('title', 'about', []) is None

"""What a user gives as pictures and masks."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.data.pictures import read_mask as read, shrink_mask


def read_mask(file, *channels):
  """Reads a mask of grey colours and alpha [8, 8], as an editor writes it."""
  Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(file)
  return read(str(file), (8, 8, 1))[..., 0]


NUMBERS, FULL = np.arange(64).reshape(8, 8), np.full((8, 8), 255)
KNOWN = NUMBERS % 3 == 0


def test_a_mask_is_its_alpha_or_its_white(tmp_path):
  """An alpha of 255 everywhere does not count."""
  file = tmp_path / 'm.png'
  # white on transparent, erased, opaque
  for channels in ((FULL, 255 * KNOWN), (4 * NUMBERS, 255 * KNOWN), (255 * KNOWN, FULL)):
    assert_array_equal(read_mask(file, *channels), KNOWN)
  Image.fromarray((65535 * KNOWN).astype(np.uint16)).save(file)
  assert_array_equal(read(str(file), (8, 8, 1))[..., 0], KNOWN)
  for colours, alpha, message in (
    (0 * FULL, 255 * KNOWN, 'm.png is black on transparent, which can be read both'),
    (255 * KNOWN, 0 * FULL + 200, 'm.png is opaque everywhere: opaque pixels stay'),
  ):
    with pytest.raises(ValueError, match=message):
      read_mask(file, colours, alpha)


def test_a_latent_is_known_where_all_its_pixels_are():
  mask = np.ones((6, 4, 1), bool)
  mask[0, 3] = mask[5, 0] = False
  small = shrink_mask(mask, (3, 2, 7))
  assert_array_equal(small[..., 0], [[1, 0], [1, 1], [0, 1]])

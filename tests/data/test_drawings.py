"""Drawings of samples are chosen by what the data are."""

import numpy as np

from diffusion_jax.data import drawings, images
from diffusion_jax.data.text_files import draw_bytes
from diffusion_jax.data.values import Values

RNG = np.random.default_rng(0)


def test_pictures_are_a_grid_of_themselves():
  values = Values((8, 6, 3), 17)
  x = RNG.integers(0, 256, (5, 8, 6, 3), np.uint8)
  np.testing.assert_array_equal(drawings.pictures(values, x), x)
  sheet = drawings.sheet(values, x, 2, height=16)  # enlarged twice
  np.testing.assert_array_equal(sheet, images.grid(x, 2, 2))
  assert drawings.sheet(values, x, 9, 8).shape == images.grid(x, 5).shape


def test_texts_are_drawn_as_letters():
  values = Values((70,), 256)
  x = RNG.integers(32, 127, (4, 70), np.uint8)
  letters = draw_bytes(x)
  np.testing.assert_array_equal(drawings.pictures(values, x), letters)
  np.testing.assert_array_equal(
    drawings.sheet(values, x, 4), images.grid(letters, 4)
  )

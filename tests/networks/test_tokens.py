"""Compares patches, positions and heads with loops in NumPy."""

import jax
import numpy as np
import pytest

from diffusion_jax.networks import tokens


@pytest.mark.parametrize('sides, size, token, place', [
  ((6, 4), 1, 6, np.s_[1:2, 2:3]),
  ((6, 4), 2, 2, np.s_[2:4, 0:2]),  # of row 1, column 0
  ((4,), 2, 1, np.s_[2:4]),
  ((4, 2, 6), 2, 4, np.s_[2:4, 0:2, 2:4]),  # of (1, 0, 1)
])  # fmt: skip
def test_patches_are_cubes_row_by_row_and_go_back(sides, size, token, place):
  x = np.arange(6.0 * np.prod(sides)).reshape(2, *sides, 3)

  @jax.jit
  def both(x):
    patches = tokens.patchify(x, size)
    return patches, tokens.unpatchify(patches, size, sides)

  patches, again = both(x)
  width = 3 * size ** len(sides)
  assert patches.shape == (2, x[0].size // width, width)
  np.testing.assert_array_equal(patches[1, token], x[1][place].reshape(-1))
  np.testing.assert_array_equal(again, x)


def test_grid_positions_have_the_column_first():
  rows, columns, features = 3, 5, 16
  found = tokens.grid_positions((rows, columns), features)
  quarter = features // 4
  for i in range(rows):
    for j in range(columns):
      expected = []
      for place in (j, i):
        angles = [place / 10000 ** (k / quarter) for k in range(quarter)]
        expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
      np.testing.assert_allclose(found[i * columns + j], expected, atol=1e-7)
  with pytest.raises(ValueError, match='divisible by 4, not 6'):
    tokens.grid_positions((2, 2), 6)


def test_heads_are_neighbouring_channels():
  x = np.arange(24.0).reshape(1, 2, 12)
  heads = tokens.split_heads(x, 3)
  np.testing.assert_array_equal(heads[0, 1, 2], x[0, 1, 8:])

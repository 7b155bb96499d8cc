"""Compares patches, positions and heads with loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks import tokens
from diffusion_jax.networks.tokens import rotary_angles
from tests.networks.test_transformer_block import turn
from tests.transcribed import transcribes

rotate = jax.jit(tokens.rotate)


@pytest.mark.parametrize(
  'sides, size, token, place',
  [
    ((6, 4), 1, 6, np.s_[1:2, 2:3]),
    ((6, 4), 2, 2, np.s_[2:4, 0:2]),  # of row 1, column 0
    ((4,), 2, 1, np.s_[2:4]),
    ((4, 2, 6), 2, 4, np.s_[2:4, 0:2, 2:4]),  # of (1, 0, 1)
  ],
)
def test_patches_are_cubes_row_by_row_and_go_back(sides, size, token, place):
  x = np.arange(6.0 * np.prod(sides)).reshape(2, *sides, 3)

  @jax.jit
  def both(x):
    patches = tokens.patchify(x, size)
    return patches, tokens.unpatchify(patches, size, sides)

  patches, again = jax.device_get(both(x))
  width = 3 * size ** len(sides)
  assert patches.shape == (2, x[0].size // width, width)
  assert_array_equal(patches[1, token], x[1][place].reshape(-1))
  assert_array_equal(again, x)


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
      assert_allclose(found[i * columns + j], expected, atol=1e-7)


@transcribes('Rotary positions (Su et al. 2021)', '16, on two axes', '`networks.tokens`')
def test_pairs_are_turned_by_row_then_column(rng):
  """Pairs are complex numbers (Su et al. 2021 Eq. 16) on two axes."""
  x = rng.standard_normal((2, 6, 3, 8))
  found = np.asarray(rotate(np.float32(x), rotary_angles((2, 3), 8)))
  assert_allclose(found, turn(x), atol=1e-6)


def test_angles_of_a_sequence_are_those_of_su_et_al():
  angles = [[p * 10000 ** (-2 * i / 8) for i in range(4)] for p in range(5)]
  assert_allclose(rotary_angles((5,), 8), angles, rtol=1e-6)


def test_the_type_is_kept():
  x = np.ones((1, 4, 1, 4), jnp.bfloat16)
  assert rotate(x, rotary_angles((2, 2), 4)).dtype == jnp.bfloat16

"""Tests rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.rotary import rotary_angles, rotate
from tests.networks.test_transformer_block import turn


@pytest.mark.parametrize('grid', [(4, 6), (24,)])
def test_scores_depend_only_on_differences_of_positions(grid, key):
  """One query and one key are at all places of a grid."""
  rows, columns, size = 24 // grid[-1], grid[-1], 8
  q, k = jax.random.normal(key, (2, size))
  angles = rotary_angles(grid, size)
  shape = (1, rows * columns, 1, size)
  turned = [
    np.asarray(rotate(jnp.broadcast_to(a, shape), angles))[0, :, 0]
    for a in (q, k)
  ]
  scores = (turned[0] @ turned[1].T).reshape(rows, columns, rows, columns)
  by_difference = {}
  for i, j, m, n in np.ndindex(scores.shape):
    by_difference.setdefault((i - m, j - n), []).append(scores[i, j, m, n])
  spread = max(np.ptp(values) for values in by_difference.values())
  means = [np.mean(values) for values in by_difference.values()]
  assert spread < 1e-5 < 0.1 < np.ptp(means)


def test_pairs_are_turned_by_row_then_column(key):
  """Pairs are complex numbers (Su et al. 2021 Eq. 16) on two axes."""
  x = np.asarray(jax.random.normal(key, (2, 6, 3, 8)), np.float64)
  found = rotate(jnp.asarray(x, jnp.float32), rotary_angles((2, 3), 8))
  np.testing.assert_allclose(found, turn(x), atol=1e-6)


def test_angles_of_a_sequence_are_those_of_su_et_al():
  angles = [[p * 10000 ** (-2 * i / 8) for i in range(4)] for p in range(5)]
  np.testing.assert_allclose(rotary_angles((5,), 8), angles, rtol=1e-6)


def test_other_tokens_are_not_turned(key):
  x = jax.random.normal(key, (1, 6, 2, 4))
  found = rotate(x, rotary_angles((2, 2), 4, num_others=2))
  np.testing.assert_array_equal(found[:, :3], x[:, :3])  # and the place (0, 0)
  assert np.abs(found[:, 3:] - x[:, 3:]).max() > 0.1


def test_the_type_is_kept_and_the_heads_are_checked():
  x = jnp.ones((1, 4, 1, 4), jnp.bfloat16)
  assert rotate(x, rotary_angles((2, 2), 4)).dtype == jnp.bfloat16
  with pytest.raises(ValueError, match='channels divisible by 4, not 6'):
    rotary_angles((2, 2), 6)

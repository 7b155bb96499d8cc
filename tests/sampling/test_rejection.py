"""Samples outside the support of the data are drawn again."""

import numpy as np
from numpy.testing import assert_array_equal

from diffusion_jax.sampling.rejection import redraw_outside


def inside(x):
  return x[:, 0] <= 1.0


def test_draws_again_have_keys_of_their_own():
  """No attempt at a sample has the key of another sample or attempt."""
  index, x, keys = np.arange(4, 12), np.full((8, 1), 2.0), []

  def draw(i, key):
    keys.extend(key.tolist())
    accepted = i % 4 < len(keys) // 9  # some at the second or third attempt
    return np.where(accepted, i / 100.0, 2.0)[:, None]

  samples, _, left = redraw_outside(draw, inside, x, index, 500)
  assert_array_equal(samples[:, 0], index / 100.0)
  assert len({*keys, *range(20)}) == len(keys) + 20 and not len(left)


def test_the_draws_outside_are_counted_and_their_number_is_limited():
  """A sample has its first draw until one is inside; others do not change."""
  x = np.array([[2.0], [0.5], [3.0]])

  def draw(i, key):
    return np.where(i == 0, 4.0, 0.25)[:, None]

  samples, num_outside, left = redraw_outside(draw, inside, x, np.arange(3), 5)
  assert_array_equal(samples, [[2.0], [0.5], [0.25]])
  assert num_outside == 2 + 4 and left.tolist() == [0]

"""Splits of data that have no test split of their own."""

import numpy as np

from diffusion_jax.data.splits import random_part


def test_a_fraction_of_a_permutation_is_for_tests():
  """The order is that of docs/data.md, and no row is lost."""
  train, test = (random_part(30, split, 0.2, 'a set') for split in ('train', 'test'))
  order = np.random.default_rng(0).permutation(30)
  np.testing.assert_array_equal(test, np.sort(order[:6]))
  np.testing.assert_array_equal(train, np.sort(order[6:]))

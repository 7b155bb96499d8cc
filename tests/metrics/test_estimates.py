"""Errors of means and of the bootstrap have their textbook forms."""

import numpy as np
from numpy.testing import assert_allclose, assert_equal

from diffusion_jax.metrics.estimates import bootstrap, mean


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_n():
  assert_allclose(mean(np.array([1.0, 2.0, 3.0, 6.0])), (3.0, (14 / 3 / 4) ** 0.5))
  assert_equal(mean(np.array([3.0])), (3.0, np.nan))


def test_the_bootstrap_divides_by_the_draws_less_one():
  values = iter([1.0, 3.0, 5.0])  # two draws, then the whole set
  found = bootstrap(lambda rows: next(values), np.zeros((2, 1)), 2)
  assert_allclose(found, (5.0, 2**0.5))

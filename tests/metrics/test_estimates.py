"""Errors of means and of the bootstrap have their textbook forms."""

import numpy as np
from numpy.testing import assert_allclose, assert_equal

from diffusion_jax.metrics.estimates import bootstrap, mean, prediction_interval


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_n():
  assert_allclose(mean(np.array([1.0, 2.0, 3.0, 6.0])), (3.0, (14 / 3 / 4) ** 0.5))
  assert_equal(mean(np.array([3.0])), (3.0, np.nan))


def test_the_bootstrap_divides_by_the_draws_less_one():
  values = iter([1.0, 3.0, 5.0])  # two draws, then the whole set
  found = bootstrap(lambda rows: next(values), np.zeros((2, 1)), 2)
  assert_allclose(found, (5.0, 2**0.5))


def test_a_prediction_interval_has_one_more_value_as_often_as_it_says():
  """Of [1, ..., 5]: 3 -+ t sqrt(1.2) sqrt(2.5), with t of 4 degrees, 2.776445 in tables."""
  half = 2.776445 * (1.2 * 2.5) ** 0.5
  assert_allclose(prediction_interval(np.arange(1, 6)), (3 - half, 3 + half), rtol=1e-6)
  assert prediction_interval(np.full(3, 0.5)) == (0.5, 0.5)
  n, sets = 5, 8000
  x = 0.2 + 0.01 * np.random.default_rng(0).standard_normal((sets, n + 1))
  five, one = x[:, :n], x[:, n]
  for coverage in (0.95, 0.5):
    low, high = np.array([prediction_interval(row, coverage) for row in five]).T
    error = (coverage * (1 - coverage) / sets) ** 0.5
    assert abs(np.mean((low <= one) & (one <= high)) - coverage) < 4.5 * error
  within = np.mean((five.min(1) <= one) & (one <= five.max(1)))  # of any distribution
  share = (n - 1) / (n + 1)
  assert abs(within - share) < 4.5 * (share * (1 - share) / sets) ** 0.5

"""Sliced Wasserstein-2 distances whose value is known."""

import numpy as np
from scipy import optimize
from scipy.spatial.distance import cdist

from diffusion_jax.metrics import values


def test_one_dimension_is_optimal_transport(rng):
  """SciPy assigns 6 points, each twice, to 4 points, each three times."""
  x, y = rng.standard_normal((6, 1)), rng.standard_normal((4, 1)) + 1.0
  cost = cdist(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0)) ** 2
  expected = cost[optimize.linear_sum_assignment(cost)].mean()
  np.testing.assert_allclose(values.wasserstein_2(x, y), [expected])


def test_a_shift_is_its_length_along_the_directions(rng):
  """The W2 of a shift is its projection, whose mean square is |s|^2 / D."""
  x, shift = rng.standard_normal((50, 3)), np.array([1.0, 2.0, -2.0])
  axes = values.directions(100, 3)
  expected = np.sqrt(np.mean((axes @ shift) ** 2))
  np.testing.assert_allclose(values.sliced_w2(x + shift, x), expected)
  many = values.sliced_w2(x + shift, x, num_directions=20_000)
  np.testing.assert_allclose(many, 3.0 / 3**0.5, rtol=0.02)


def test_gaussians_of_other_deviations(rng):
  """Along u the W2 of N(0, A) and N(0, B) is |sqrt(u A u) - sqrt(u B u)|."""
  a, b = np.array([1.0, 4.0]), np.array([2.25, 0.25])
  x, y = (rng.standard_normal((20_000, 2)) * np.sqrt(v) for v in (a, b))
  squares = values.directions(100, 2) ** 2
  expected = np.sqrt(
    np.mean((np.sqrt(squares @ a) - np.sqrt(squares @ b)) ** 2)
  )
  np.testing.assert_allclose(values.sliced_w2(x, y), expected, rtol=0.03)


def test_the_metric_is_in_deviations_of_the_reference(rng):
  y = rng.standard_normal((300, 2)) * [5.0, 1e-3]
  x = y + y.std(axis=0)
  [score] = values.sliced(num_draws=0).compute({'values': x}, {'values': y})
  # A shift by 1 in both numbers.
  expected = np.sqrt(np.mean(values.directions(100, 2).sum(axis=1) ** 2))
  np.testing.assert_allclose(score.estimate.value, expected)
  assert np.isnan(score.estimate.error)

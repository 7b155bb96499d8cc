"""Copies of training examples are noticed, and honest samples count as copied by chance only."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.metrics.estimates import Missing
from diffusion_jax.metrics.memorisation import (
  expected_fraction,
  fraction_copied,
  memorisation,
  pair_sheet,
)
from tests.transcribed import transcribes


def test_copies_are_noticed_and_their_sources_named(rng):
  train, test = rng.standard_normal((300, 8)), rng.standard_normal((200, 8))
  fresh = rng.standard_normal((100, 8))
  copies = train[:50] + 1e-3 * rng.standard_normal((50, 8))
  found = memorisation(np.concatenate([copies, fresh]), train, test)
  assert_array_equal(found.index[:50], np.arange(50))
  assert_allclose(found.samples[:50], np.linalg.norm(copies - train[:50], axis=1), rtol=1e-6)
  # copies are closer than any test image, other samples than half of them
  alone = memorisation(fresh, train, test)
  assert alone.expected == expected_fraction(200)
  assert_allclose(found.closer.value, 1 / 3 + alone.closer.value * 2 / 3)
  assert_allclose(found.copied.value, 1 / 3 + alone.copied.value * 2 / 3)


def null(m):
  """Returns the expectation of `copied` without copies, by the 1 % quantile."""
  return (0.01 * (m - 1) + 1) / (m + 1)


@pytest.mark.parametrize('m', [1, 50, 101, 130])
def test_the_expected_fraction_of_copies_is_exact(m):
  """The mean over M + 1 exchangeable distances, where each is the sample's once, is exact."""
  distances = np.arange(1.0, m + 2) ** 4
  found = [
    fraction_copied(distances[i : i + 1], np.delete(distances, i)).value for i in range(m + 1)
  ]
  assert expected_fraction(m) == pytest.approx(null(m), rel=1e-12)
  assert np.mean(found) == pytest.approx(null(m), rel=1e-12)


def variance_under_null(n, m):
  """Returns the variance of `copied` by order statistics (David & Nagaraja)."""
  k, g = divmod(0.01 * (m - 1) + 1, 1)
  of_u, of_v = (i * (m + 1 - i) / ((m + 1) ** 2 * (m + 2)) for i in (k, k + 1))
  both = k * (m - k) / ((m + 1) ** 2 * (m + 2))
  limit = (1 - g) ** 2 * of_u + g**2 * of_v + 2 * g * (1 - g) * both
  return ((k + g**2) / (m + 1) - limit - null(m) ** 2) / n + limit


@pytest.mark.parametrize('m', [50, 360])
def test_the_fraction_of_copies_varies_as_its_closed_form(rng, m):
  """The error has both parts of the variance for any law: few values are 2 errors away."""
  n, draws = 200, 2000
  found = [fraction_copied(rng.exponential(size=n), rng.exponential(size=m)) for _ in range(draws)]
  values, errors = np.array(found).T
  expected = variance_under_null(n, m)
  assert abs(values.mean() - null(m)) < 4.5 * (expected / draws) ** 0.5
  squares = (values - null(m)) ** 2
  error = squares.std() / draws**0.5
  assert abs(squares.mean() - expected) < 4.5 * error
  assert error < 0.1 * expected
  assert (abs(values - null(m)) > 2.0 * errors).mean() < 0.15
  # over many draws the bootstrap is a little wide if few images are closest
  assert 0.8 < (errors**2).mean() / expected < 2.5


def test_held_out_images_of_the_training_set_are_left_out(rng):
  """Features of held-out copies differ by rounding; exact copies are still noticed."""
  train, test = rng.standard_normal((300, 8)), rng.standard_normal((200, 8))
  samples = np.concatenate([train[:40], rng.standard_normal((10, 8))])
  expected = memorisation(samples, train, test)
  assert expected.overlap == 0 and expected.copied.value >= 0.8
  for count in (1, 4, 100):
    rounded = train[-count:] * (1.0 + 1e-7 * rng.standard_normal((count, 8)))
    found = memorisation(samples, train, np.concatenate([test, rounded]))
    assert found.overlap == count
    assert_array_equal(found.test, expected.test)
    assert found[2:5] == expected[2:5]
  with pytest.raises(Missing, match='not in the reference: all 300 are'):
    memorisation(samples, train, train)


def test_the_error_of_closer_is_of_samples_and_test_images(rng):
  """The error of `closer` is a two-sample U statistic's, by its double sum."""
  train = rng.standard_normal((30, 2))
  x, test = rng.standard_normal((8, 2)), rng.standard_normal((5, 2)) + 1.0
  found = memorisation(x, train, test)
  near, usual = (
    np.array([min(np.linalg.norm(a - b) for b in train) for a in points]) for points in (x, test)
  )
  less = np.array([[a < b for b in usual] for a in near], float)
  variance = less.mean(axis=1).var() / 8 + less.mean(axis=0).var() / 5
  assert_allclose(found.closer, (less.mean(), variance**0.5))


def test_copied_are_the_samples_below_the_first_percentile_of_test_images():
  """Test images are 1, 2, .., 101 away, so that the percentile is at 2."""
  train, test = np.zeros((1, 1)), np.arange(1.0, 102.0)[:, None]
  assert memorisation(np.array([[1.5], [2.0], [2.5], [9.0]]), train, test).copied.value == 1 / 4


def test_equal_distances_of_one_law_are_copied_as_often_as_others(rng):
  """A fifth of the distances is 0, which none is below."""
  value, error = fraction_copied(rng.poisson(1.6, 4000), rng.poisson(1.6, 2000))
  assert abs(value - expected_fraction(2000)) < 4.5 * error < 0.015


def test_the_error_of_copies_that_more_samples_remove_is_of_their_counts():
  """A distance counts as 1, as a share between two order statistics, or as 0."""
  usual, near = np.arange(1.0, 52.0), np.linspace(0.1, 4.9, 20)
  counts = np.where(near < 1.0, 1.0, np.where(near < 2.0, 0.5, 0.0))  # order 1.5 of 51
  few, many = (fraction_copied(np.tile(near, n), usual) for n in (1, 10_000))
  assert_allclose(few.value, counts.mean())
  assert_allclose(few.error**2 - many.error**2, counts.var() / 20, rtol=1e-3)


@transcribes(
  'Meehan et al. 2020',
  'U statistic of data copying',
  '`metrics.memorisation.memorisation`',
)
def test_equal_distances_count_as_a_half():
  found = memorisation(np.array([[1.0], [2.0]]), np.zeros((1, 1)), np.array([[-1.0]]))
  assert found.closer.value == (0.5 + 0.0) / 2


def test_the_sheet_shows_pairs_side_by_side():
  samples, train = (
    np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 48, 48, 1))
    for levels in ([52, 157], [50, 150])
  )
  sheet = pair_sheet(samples, train)
  assert sheet.shape == (54, 201, 1)  # The gap is 48 / 16.
  assert sheet[20, [3, 51, 102, 150], 0].tolist() == [52, 50, 157, 150]

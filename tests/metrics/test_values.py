"""Values as features, and their moments, for laws that are known."""

import numpy as np
import pytest

from diffusion_jax.metrics import features, values


def test_features_are_standardised_by_each_channel_of_the_reference(rng):
  """Values of 1000 +- 0.001 keep their digits, which float32 would lose."""
  reference = 1e3 + 1e-3 * rng.standard_normal((500, 6, 2)) * [1.0, 3.0]
  standard = values.standard_of(reference)
  expected = reference.reshape(-1, 2).std(axis=0)
  np.testing.assert_allclose(standard.std, expected)
  flat = standard.features(reference)
  assert flat.shape == (500, 12)
  shaped = flat.reshape(-1, 2)
  np.testing.assert_allclose(shaped.mean(axis=0), 0.0, atol=1e-6)
  np.testing.assert_allclose(shaped.std(axis=0), 1.0)


def test_a_constant_channel_is_only_centred():
  x = np.stack([np.arange(4.0), np.full(4, 7.0)], axis=1)
  found = values.standard_of(x).features(x)
  np.testing.assert_array_equal(found[:, 1], 0.0)
  assert np.isfinite(found).all()


def test_the_extractor_of_values_names_its_statistics(rng):
  x, y = rng.standard_normal((2, 30, 3))
  made = [values.standard_of(array) for array in (x, y)]
  first, other = (features.make('values', standard=s) for s in made)
  expected = (y - x.mean(axis=0)) / x.std(axis=0)
  np.testing.assert_allclose(first.extract(y)['features'], expected)
  assert first.identity['features'] == 'values'
  assert first.identity != other.identity
  assert first.identity == features.make('values', standard=made[0]).identity
  with pytest.raises(ValueError, match='need the statistics of the reference'):
    features.make('values')


def test_errors_of_moments_that_are_known(rng):
  """An affine map of the reference has these moments exactly."""
  y = rng.standard_normal((400, 2)) @ [[2.0, 1.0], [0.0, 3.0]]
  std, correlation = y.std(axis=0), np.corrcoef(y.T)[0, 1]
  x = y * [1.0, 1.3] + [0.2 * std[0], -0.1 * std[1] - 0.3 * y[:, 1].mean()]
  found = values.moment_errors(x, y)
  np.testing.assert_allclose(found, (0.2, 0.3, 0.0), atol=1e-9)
  flipped = values.moment_errors(y * [1.0, -1.0], y)
  np.testing.assert_allclose(flipped.correlation, 2.0 * abs(correlation))


def test_a_constant_number_has_no_correlation(rng):
  y = np.stack([rng.standard_normal(50), np.full(50, 3.0)], axis=1)
  np.testing.assert_allclose(values.moment_errors(y, y), 0.0, atol=1e-12)


def test_the_errors_of_moments_are_deviations_over_sets(rng):
  """For one number, the error of the mean is sigma / sqrt(N)."""
  y = rng.standard_normal((20_000, 1))
  x = 1.0 + rng.standard_normal((500, 1))
  scores = values.moments(num_draws=200).compute({'values': x}, {'values': y})
  assert [s.name for s in scores] == [
    'moments_mean', 'moments_std', 'moments_correlation',
  ]  # fmt: skip
  np.testing.assert_allclose(scores[0].estimate.error, 500**-0.5, rtol=0.2)

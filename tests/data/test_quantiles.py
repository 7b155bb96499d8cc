"""A column's numbers become standard normal, and come back as they were."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ks_2samp, norm

from diffusion_jax.data import quantiles


def test_a_value_that_repeats_is_encoded_as_its_mid_rank():
  values = np.repeat([0.0, 5.0, 7.0], [80, 15, 5])
  curve = quantiles.fitted(values)
  assert curve == ((0.0, 5.0, 7.0), (0.8, 0.15, 0.05))
  z = quantiles.to_normal(np.array([0.0, 5.0, 7.0]), *curve)
  assert_allclose(z, norm.ppf([0.4, 0.875, 0.975]))
  inside = norm.ppf([1e-6, 0.799, 0.801, 0.949, 0.951, 1 - 1e-6])
  assert_array_equal(quantiles.from_normal(inside, *curve), [0, 0, 5, 5, 7, 7])


def test_other_numbers_are_as_by_the_transform_of_scikit_learn():
  """Its lowest number has the probability 0 and ours 1 / 2K; between, both are linear."""
  from sklearn.preprocessing import QuantileTransformer

  values = np.random.default_rng(0).lognormal(size=4000)
  theirs = QuantileTransformer(n_quantiles=1000, subsample=None).fit_transform(values[:, None])
  curve = quantiles.fitted(values)
  ours = norm.cdf(quantiles.to_normal(values, *curve))
  assert not curve[1] and len(curve[0]) == 1000
  assert_allclose(ours, 0.0005 + 0.999 * theirs[:, 0], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=300), st.sampled_from([1.0, 0.01, 1e6]))
def test_what_was_seen_comes_back(values, unit):
  values = np.array(values) * unit
  curve = quantiles.fitted(values)
  z = quantiles.to_normal(values, *curve)
  assert np.isfinite(z).all()
  assert_allclose(quantiles.from_normal(z, *curve), values, atol=1e-9 * unit)


@pytest.mark.parametrize('share', [0.92, 0.3])
def test_draws_of_a_normal_have_the_law_of_a_skewed_and_capped_column(share):
  rng = np.random.default_rng(1)
  values = np.where(rng.random(20_000) < share, 0.0, np.minimum(rng.lognormal(8, 2, 20_000), 99999))
  drawn = quantiles.from_normal(rng.normal(size=20_000), *quantiles.fitted(values))
  assert ks_2samp(values, drawn)[0] < 1.95 * np.sqrt(2 / 20_000)  # p = .001
  atom = abs(np.mean(drawn == 0.0) - np.mean(values == 0.0))
  assert atom < 4 * np.sqrt(share * (1 - share) / 20_000) + 0.002


def test_numbers_beyond_what_was_seen_are_those_of_the_ends():
  curve = quantiles.fitted(np.arange(5000.0))
  z = quantiles.to_normal(np.array([-1e9, 0.0, 4999.0, 1e9, np.nan]), *curve)
  assert z[0] == z[1] and z[2] == z[3] and np.isnan(z[4])
  assert_allclose(quantiles.from_normal(np.array([-9.0, 9.0]), *curve), [0.0, 4999.0])

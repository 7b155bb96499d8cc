"""Distances to a reference: an independent formula, closed forms, and the errors of pairs."""

import numpy as np
import pytest
from scipy.stats import foldnorm

from diffusion_jax.metrics import distances
from diffusion_jax.metrics.distances import apart, difference, distance
from diffusion_jax.metrics.mmd import energy_distance

N = 200
REFERENCE = np.random.default_rng(0).standard_normal((20_000, 1))


def drawn(seed, mean=0.0):
  return mean + np.random.default_rng(seed).standard_normal((N, 1))


def test_a_distance_is_the_energy_distance():
  x, y = drawn(1, 0.5), REFERENCE[:300]
  assert distance(apart(x, y)).value == pytest.approx(energy_distance(x, y).value)


def test_of_two_gaussians():
  """2 E|x - y| - E|x - x'| - E|y - y'| of N(m, 1) and N(0, 1): means of folded normals."""
  value, error = distance(apart(drawn(1, 1.0), REFERENCE))
  to_reference = float(foldnorm(1.0 / np.sqrt(2.0), scale=np.sqrt(2.0)).mean())  # x - y is N(1, 2)
  expected = 2.0 * to_reference - 4.0 / np.sqrt(np.pi)
  assert abs(value - expected) < 4.5 * error < 0.8 * expected


@pytest.mark.parametrize('mean', [0.0, 0.3])
def test_the_errors_are_the_spread_of_other_draws(mean):
  """Also for samples of the law of the reference, where the first order is nothing."""
  found = [distance(apart(drawn(seed, mean), REFERENCE[:2000])) for seed in range(60)]
  spread = np.std([x.value for x in found], ddof=1)
  assert 0.6 < np.mean([x.error for x in found]) / spread < 1.8


def test_pairs_have_smaller_errors_than_two_sets():
  x = drawn(1, 1.0)
  near = x + 0.3 + 0.01 * drawn(2)
  one, other = (apart(a, REFERENCE[:2000]) for a in (near, x))
  paired, alone = difference(one, other), difference(one, other, paired=False)
  assert paired.value == pytest.approx(alone.value) and paired.error < 0.8 * alone.error
  assert difference(other, other) == (0.0, 0.0)


def test_few_rows_of_many_are_compared(monkeypatch):
  monkeypatch.setattr(distances, 'MOST', 50)
  assert apart(drawn(1), REFERENCE[:100]).pairs.shape == (50, 50)


def test_sets_need_the_features_of_the_reference():
  with pytest.raises(ValueError, match='2 features cannot be compared with 1'):
    apart(np.zeros((3, 2)), REFERENCE)

"""Figures of restored pictures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics import restoration


@pytest.mark.parametrize(
  'residual, lost',
  [
    ([1.0, 1.1, 0.9, 2.9], []),
    ([1.0, 1.1, 0.9, 3.1], [3]),
    ([9.0, 5.0, 16.0, 5.0], [2]),  # a method that misses y
    ([1.0, 50.0], [1]),
    ([0.1, 0.2, 2.5], []),  # within the noise
    ([np.nan, 0.9, np.inf], [0, 2]),
    ([np.nan, np.nan], [0, 1]),
  ],
)
def test_a_sample_leaves_beyond_the_usual_residual(residual, lost):
  x = np.zeros((len(residual), 2, 2, 1))
  assert [*np.flatnonzero(~restoration.kept(x, np.array(residual)))] == lost
  x[0] = np.inf
  assert not restoration.kept(x, np.ones(len(residual)))[0]


def test_errors_of_known_samples():
  clean = np.zeros((2, 2, 1))
  x = np.stack([clean + 0.1, clean - 0.3])
  found = restoration.errors(x, clean)
  assert_allclose(found['psnr_of_mean'], 20 * np.log10(2 / 0.1))
  each = [20 * np.log10(2 / 0.1), 20 * np.log10(2 / 0.3)]
  assert_allclose(found['psnr'], np.mean(each))
  assert found['between'] == 100.0
  assert restoration.errors(np.abs(x), clean)['between'] == 0.0

"""Figures of restored pictures agree with their formulas."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.metrics import restoration

# residuals: which are left out
RESIDUALS = """
1.0 1.1 0.9 2.9:
1.0 1.1 0.9 3.1: 3
9.0 5.0 16.0 5.0: 2  # a method that misses y
1.0 50.0: 1
0.1 0.2 2.5:  # within the noise
nan 0.9 inf: 0 2
nan 9.0 8.0 20.0: 0
nan nan: 0 1
"""


@pytest.mark.parametrize('row', RESIDUALS.strip().split('\n'))
def test_a_sample_leaves_beyond_the_usual_residual(row):
  residual, lost = (np.array(x.split(), float) for x in row.partition('#')[0].split(':'))
  x = np.zeros((len(residual), 2, 2, 1))
  assert_array_equal(np.flatnonzero(~restoration.kept(x, residual)), lost)
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

"""Bits per dimension, rate and distortion equal counts by hand."""

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.metrics import bits


def test_rate_and_distortion_by_hand():
  """x_T costs the prior, then L_2 and L_1 are sent; RMSE of 0.02 is 2.55."""
  rate, distortion = bits.rate_distortion(
    0.5, np.array([0.1, 0.2, 0.4]), np.array([0.0001, 0.0004, 0.01])
  )
  assert_allclose(rate, [0.5, 0.9, 1.1])
  assert_allclose(distortion, [12.75, 2.55, 1.275])


def test_a_histogram_counts_one_of_each_level_more():
  """A pixel of levels 0, 2, 2 in two batches has the counts (2, 1, 3) of 6."""
  batches = [np.array([[[[0]]], [[[2]]]]), np.array([[[[2]]]])]
  log_prob = bits.pixel_histogram(batches, 3)
  assert log_prob.shape == (1, 1, 1, 3)
  assert_allclose(np.exp(log_prob[0, 0, 0]), [2 / 6, 1 / 6, 3 / 6], rtol=1e-6)
  x0 = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
  found = bits.independent_pixels_nll(x0, jnp.asarray(log_prob))
  assert_allclose(found, np.log([3.0, 6.0, 2.0]), rtol=1e-6)

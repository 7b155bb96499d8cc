"""Measurements of damaged pictures are in the units of the model."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize

from diffusion_jax.core import operators
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.posteriors.damage import (
  damage_of,
  noise_needed,
)
from tests.rows import normal, slow


@pytest.mark.parametrize('noise', [(0.02, 3.0), 0.02])
def test_noise_is_in_the_units_of_the_measurement(noise):
  """Channels get one noise by factors of product 1; width is in units of x."""
  values = ArraySpec((60, 2), 0, (20.0, -1.0), (1e-3, 50.0))
  seen = np.arange(60)[:, None] % 3 > 0  # the others are always 0
  damage = damage_of(lambda x: jnp.where(seen, 3.0 * x, 0.0), noise, values)
  x = normal(5, 60, 2)
  y = np.where(seen, 3.0 * values.decode(x).astype(np.float64), 0.0)
  whitened = damage.weights * (y - damage.offset)
  assert_allclose(whitened, damage.forward(x), rtol=1e-2, atol=1e-5 * np.abs(whitened).max())
  stds = np.broadcast_to(damage.weights * np.atleast_1d(noise), (1, 1, 2))
  assert_allclose(stds, damage.std, rtol=1e-5)
  weights = np.broadcast_to(damage.weights, (1, 1, 2))
  assert_allclose(np.log(weights).sum(), 0.0, atol=1e-5)
  least = np.min(np.broadcast_to(noise, 2) / (3.0 * np.array(values.std)))
  assert_allclose(damage.width, least, rtol=0.1)


@pytest.mark.parametrize('width, factor', [(1.0, 1), slow(3.0, 1), (1.0, 4)])
def test_the_noise_that_a_picture_needs(width, factor, key):
  """The noise is a lower bound on what SciPy's best picture in [-1, 1] needs."""
  clean = np.sign(jax.random.normal(key, (2, 12, 12, 1)))
  kernel = operators.gaussian_kernel(width, 2 * math.ceil(3.0 * width) + 1)
  forward, std = jax.jit(operators.downsampled(kernel, factor)), 1.0 / 127.5
  y = forward(clean)
  y += std * jax.random.normal(key, y.shape)
  other = 3.0 * clean[:, ::factor, ::factor]  # of no picture
  pixels = np.eye(144, dtype=np.float32).reshape(144, 12, 12, 1)
  matrix = np.asarray(forward(pixels), np.float64).reshape(144, -1).T
  for one, share in ((y, -np.inf), (other, 0.6)):
    found = noise_needed(forward, one, clean, std)
    for i in range(2):
      best = optimize.lsq_linear(matrix, np.ravel(one[i]), (-1.0, 1.0), method='bvls')  # exact
      least = np.sqrt(np.mean(best.fun**2)) / std
      assert share * least <= found[i] <= 1.001 * least + 1e-6

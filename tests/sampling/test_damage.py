"""Measurements in the units of a model."""

import numpy as np
import pytest

from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.sampling.damage import damage_of


@pytest.mark.parametrize('noise', [(0.02, 3.0), 0.02])
def test_noise_is_in_the_units_of_the_measurement(noise):
  """Channels get one noise by factors of product 1; width is in units of x."""
  values = ArraySpec((4, 2), 0, (20.0, -1.0), (1e-3, 50.0))
  damage = damage_of(lambda x: 3.0 * x[:, :2], noise, values)
  x = np.random.default_rng(0).standard_normal((5, 4, 2)).astype(np.float32)
  y = 3.0 * values.decode(x)[:, :2].astype(np.float64)
  whitened = damage.weights * (y - damage.offset)
  np.testing.assert_allclose(whitened, damage.forward(x), rtol=1e-2)
  stds = np.broadcast_to(damage.weights * np.atleast_1d(noise), (1, 1, 2))
  np.testing.assert_allclose(stds, damage.std, rtol=1e-5)
  weights = np.broadcast_to(damage.weights, (1, 1, 2))
  np.testing.assert_allclose(np.log(weights).sum(), 0.0, atol=1e-5)
  least = np.min(np.broadcast_to(noise, 2) / (3.0 * np.array(values.std)))
  assert 0.7 < damage.width / least < 1.4

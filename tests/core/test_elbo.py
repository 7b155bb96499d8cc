import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core import elbo


@pytest.mark.parametrize('num_levels', [2, 17, 256])
def test_the_categorical_decoder_literally(num_levels):
  """Bayes' rule over the grey levels, in float64, one pixel at a time."""
  rng = np.random.default_rng(0)
  values = np.linspace(-1.0, 1.0, num_levels)
  x0 = rng.choice(values, (2, 3, 4))
  alpha, sigma = np.array([0.9, 0.6]), np.array([0.1, 0.8])
  z0 = alpha[:, None, None] * x0 + sigma[:, None, None] * rng.normal(
    size=x0.shape
  )
  expected = np.zeros(2)
  for (b, i, j), x in np.ndenumerate(x0):
    q = np.exp(-0.5 * ((z0[b, i, j] - alpha[b] * values) / sigma[b]) ** 2)
    expected[b] -= np.log(q[np.argmin(np.abs(values - x))] / q.sum())
  arrays = (jnp.asarray(v, jnp.float32) for v in (x0, z0, alpha, sigma))
  x0, z0, alpha, sigma = arrays
  level = dj.NoiseLevel(alpha, alpha, sigma)
  found = elbo.categorical_nll(x0, z0, level, num_levels)
  np.testing.assert_allclose(found, expected, rtol=2e-5)

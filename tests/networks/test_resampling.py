import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import upfirdn

from diffusion_jax.networks import ddpmpp
from diffusion_jax.networks.layers import average_pool, nearest_upsample

X = np.random.default_rng(0).standard_normal((2, 8, 6, 3))
FILTERS = [(1, 3, 3, 1), (1, 2, 3, 4), (1, 1), (1, 0, 2, 2, 5, 1)]


def filtered(x, weights, up, down, start, count):
  """Applies scipy's upfirdn, a convolution, along both axes."""
  h = np.array(weights) / np.sum(weights) * up
  for axis in (1, 2):
    n = int(x.shape[axis] * count[0]) + count[1]
    full = upfirdn(h, x, up, 1, axis)
    full = np.moveaxis(full, axis, 0)
    padded = np.concatenate([full, np.zeros((8, *full.shape[1:]))])
    x = np.moveaxis(padded[start : start + n * down : down], 0, axis)
  return x


@pytest.mark.parametrize('weights', FILTERS)
def test_filters_are_upfirdn(weights):
  """recipes 5: score_sde correlates going down, and convolves going up."""
  m = len(weights) // 2
  x = jnp.float32(X)
  turned = weights[::-1]  # a correlation is the convolution of the reverse
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
  f = ddpmpp
  run = lambda x: [g(x, weights) for g in (f.downsample, f.upsample, f.blur)]
  down, up, blurred = jax.jit(run)(x)
  close(down, filtered(X, turned, 1, 2, m, (0.5, 0)))
  close(up, filtered(X, weights, 2, 1, m - 1, (2, 0)))
  close(blurred, filtered(X, turned, 1, 1, m - 1, (1, 1)))


def test_the_shortest_filter_is_the_mean_and_the_nearest():
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  filters = lambda x: (
    (ddpmpp.downsample(x, (1, 1)), average_pool(x)),
    (ddpmpp.upsample(x, (1, 1)), nearest_upsample(x)),
  )
  for found, expected in jax.jit(filters)(jnp.float32(X)):
    close(found, expected)

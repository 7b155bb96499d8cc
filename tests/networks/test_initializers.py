from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.layers import Conv, initializers
from diffusion_jax.networks.options import Initialization


def conv_params(key, **options):
  conv = Conv(128, **options)
  p = jax.jit(conv.init)(key, np.zeros((1, 4, 4, 64)))['params']
  return np.asarray(p['kernel']), np.asarray(p['bias'])


def test_initialisers_are_variance_scaling_over_fan_avg(key):
  """The variance is 1 / mean(fan_in, fan_out), times 1e-10 at the ends."""
  limit = np.sqrt(3.0 / (9 * (64 + 128) / 2))
  w, bias = conv_params(key)
  assert 0.99 * limit < np.abs(w).max() <= limit
  np.testing.assert_allclose(w.var(), limit**2 / 3, rtol=0.02)
  assert not bias.any()
  w, bias = conv_params(key, zero=True)
  assert 0.0 < np.abs(w).max() <= 1e-5 * limit * 1.001
  assert not bias.any()


def test_torch_initialisers_are_uniform_over_fan_in(key):
  """Kernels and biases are within +-1 / sqrt(fan_in), and 0 at the ends."""
  limit = 1.0 / np.sqrt(9 * 64)
  for values, rtol in zip(
    conv_params(key, initializer='torch'), (0.02, 0.4), strict=True
  ):
    assert 0.9 * limit < np.abs(values).max() <= limit
    np.testing.assert_allclose(values.var(), limit**2 / 3, rtol=rtol)
  for values in conv_params(key, initializer='torch', zero=True):
    assert not values.any()
  with pytest.raises(ValueError, match="'he' is not one of ho, torch, lecun"):
    conv_params(key, initializer='he')


def test_lecun_initialisers_are_flaxs(key):
  """The variance is 1 / fan_in, truncated at 2 deviations; 0 at the ends."""
  w, bias = conv_params(key, initializer='lecun')
  np.testing.assert_allclose(w.var(), 1.0 / (9 * 64), rtol=0.02)
  assert 2.0 < np.abs(w).max() * np.sqrt(9 * 64) < 2.3 and not bias.any()
  for values in conv_params(key, initializer='lecun', zero=True):
    assert not values.any()


@pytest.mark.parametrize('kind', get_args(Initialization))
def test_a_scale_multiplies_the_variance_of_kernels_only(kind, key):
  draw = lambda init: np.asarray(init(key, (64, 128), jnp.float32))
  kernel, bias = initializers(kind, 64)
  scaled, same = initializers(kind, 64, scale=0.25)
  np.testing.assert_allclose(draw(scaled), 0.5 * draw(kernel), rtol=1e-5)
  np.testing.assert_array_equal(draw(same), draw(bias))

import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core.broadcasting import data_axes, expand_to, sum_data_axes


@pytest.mark.parametrize('shape', [(3,), (3, 4), (3, 4, 4, 2), (3, 4, 4, 5, 2)])
@pytest.mark.parametrize('batched', [False, True])
def test_expand_to_broadcasts_against_any_trailing_axes(shape, batched):
  sigma = jnp.arange(1.0, 4.0) if batched else jnp.array(2.0)
  x = jnp.ones(shape)
  level = dj.NoiseLevel(sigma, sigma, sigma).expand_to(x)
  expected = np.broadcast_to(
    np.asarray(sigma).reshape(-1, *[1] * (len(shape) - 1)), shape
  )
  np.testing.assert_array_equal(x * level.sigma, expected)


def test_floats_get_the_precision_of_the_array_but_no_less_than_float32():
  value = np.arange(2.0)
  assert expand_to(value, np.ones((2, 3), np.float32)).dtype == jnp.float32
  half = jnp.ones((2, 3), jnp.bfloat16)
  assert expand_to(value, half).dtype == jnp.float32
  assert expand_to(jnp.array([True, False]), half).dtype == jnp.bool_


@pytest.mark.parametrize('shape', [(2,), (2, 3), (2, 3, 4)])
def test_sums_are_over_all_axes_but_the_first(shape):
  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  assert data_axes(x) == tuple(range(1, len(shape)))
  expected = x.reshape(2, -1).sum(axis=1)
  np.testing.assert_array_equal(sum_data_axes(jnp.asarray(x)), expected)

"""Tests group normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion_jax.networks.layers import GroupNorm
from tests.networks.literal import close, norm


@pytest.mark.parametrize('groups', [1, 4, 8])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_group_norm_literally_with_float32_statistics(groups, dtype, key):
  """recipes 1.1: epsilon 1e-6; variance over space and a group's channels."""
  x = (30.0 + jax.random.normal(key, (2, 4, 6, 8))).astype(dtype)
  p = {'scale': jnp.linspace(0.5, 2, 8), 'bias': jnp.linspace(-1, 1, 8)}
  found = jax.jit(GroupNorm(groups, dtype=dtype).apply)({'params': p}, x)
  assert found.dtype == dtype
  expected = norm(p, np.asarray(x, np.float64), groups)
  atol = 1e-3 if dtype == jnp.float32 else 0.02  # a last place of bfloat16
  np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=atol)


def test_parameters_and_gradients_are_flaxs(key):
  """The feature maps are not square."""
  x = 0.5 + jax.random.normal(key, (2, 3, 5, 12))
  theirs = nn.GroupNorm(4, epsilon=1e-6)
  ours = GroupNorm(4)
  params, same = (jax.jit(m.init)(key, x) for m in (theirs, ours))
  jax.tree.map(np.testing.assert_array_equal, same, params)

  def gradients(module):
    def loss(params, x):
      return jnp.sum(jnp.sin(module.apply(params, x)))

    return jax.grad(loss, (0, 1))(params, x)

  found, expected = jax.jit(lambda: [gradients(m) for m in (ours, theirs)])()
  close(found, expected, rtol=1e-7, atol=2e-5)

"""Tests the product of linear layers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion_jax.networks import edm2, layers, transformer_block
from diffusion_jax.networks.cpu.products import linear


def test_the_product_is_that_of_dense(key):
  x = np.asarray(jax.random.normal(key, (3, 4, 5, 8)))
  found, variables = jax.jit(nn.Dense(6, dot_general=linear).init_with_output)(
    key, x
  )
  expected = x @ np.asarray(variables['params']['kernel'])
  np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
  plain = jax.eval_shape(nn.Dense(6).init, key, x)
  assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, variables)


class Layers(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, x):
    if self.kind == 'layers':
      return layers.dense(x, 6, 'a')
    if self.kind == 'transformer':
      return transformer_block.dense(6, 'a')(x)
    return edm2.MPConv(6)(x)


@pytest.mark.parametrize('kind', ['layers', 'transformer', 'magnitude'])
def test_every_gradient_sums_over_one_axis_on_cpus(kind, key):
  """Feature maps [B, H, W, C] have three axes of rows."""
  x, network = np.ones((2, 3, 4, 8), np.float32), Layers(kind)
  params = jax.eval_shape(network.init, key, x)

  def loss(params, x):
    return jnp.sum(jnp.square(jnp.asarray(network.apply(params, x))))

  gradient = jax.jit(jax.grad(loss, (0, 1))).trace(params, x)

  def axes(platform):
    # Returns the axes that the products sum over.
    text = gradient.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r'dot_general.*contracting_dims = (\[.*?\]) x', text)

  assert len(axes('cpu')) == 3 and set(axes('cpu')) == {'[0]', '[1]'}
  assert len(axes('tpu')) == 3 and '[0, 1, 2]' in axes('tpu')

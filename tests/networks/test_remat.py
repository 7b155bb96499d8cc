"""Tests which results the backward pass recomputes."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from tests.networks.jaxprs import equations

NETWORKS: Any = {
  'unet': lambda **k: UNet(8, (1,), 1, (), num_groups=4, **k),
  'dit': lambda **k: DiT(8, 1, 2, **k),
}


ARGS = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2)


def computed(network, params):
  """Returns how many of each kind of product a gradient takes."""

  def loss(params, x, noise):
    return jnp.sum(network.apply(params, x, noise))

  jaxpr = jax.make_jaxpr(jax.grad(loss))(params, *ARGS).jaxpr
  found = collections.Counter()
  for eqn in equations(jaxpr):
    name = eqn.primitive.name
    if name == 'dot_general':
      (_, _), (batched, _) = eqn.params['dimension_numbers']
      name = 'batched product' if batched else name
    found[name] += 1
  kinds = 'conv2d', 'linear', 'batched product', 'exp'
  return {kind: found[kind] for kind in kinds}


@pytest.mark.parametrize('name', NETWORKS)
def test_products_with_weights_are_computed_again_unless_they_are_stored(name):
  """Both policies recompute attention, and one stores products."""
  options = {}, {'remat': True}, {'remat': True, 'remat_policy': 'products'}
  networks = [NETWORKS[name](**k) for k in options]
  params = jax.eval_shape(networks[0].init, jax.random.key(0), *ARGS)
  plain, again, stored = (computed(network, params) for network in networks)
  assert again['linear'] > plain['linear'] == stored['linear']
  if name != 'dit':
    assert again['conv2d'] > plain['conv2d'] == stored['conv2d']
  for kind in ('batched product', 'exp'):  # of scores, and of the softmax
    assert again[kind] == stored[kind] > plain[kind]

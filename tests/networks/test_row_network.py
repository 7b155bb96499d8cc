"""Each column has its own map in and out, and no category that it does not have."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.row_network import RowNetwork
from diffusion_jax.networks.transformer import DiT

NETWORKS = {
  'dit': DiT(8, num_blocks=1, num_heads=2, patch_size=1, out_channels=6),
  'mlp': MLP(8, num_blocks=1, out_channels=6),
}


@functools.cache
def of(name, numbers, sizes) -> Any:
  """Returns (cells of a table, the program of a network of it)."""
  network = RowNetwork(NETWORKS[name], numbers, sizes, features=6)
  x, noise = {}, {}
  if numbers:
    x['numbers'] = jnp.linspace(-1.0, 1.0, 3 * numbers).reshape(3, numbers)
  if sizes:
    x['categories'] = jnp.arange(3 * len(sizes)).reshape(3, -1) % (max(sizes) + 1)
  noise = {n: jnp.full(a.shape, 500.0) for n, a in x.items()}
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, noise)['params']
  params = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)
  program = jax.jit(lambda x, noise: network.apply({'params': params}, x, noise))
  return x, lambda x, noise=noise: program(x, noise)


def test_impossible_categories_have_no_probability():
  x, apply = of('dit', 2, (3, 2))
  outputs = apply(x)
  assert outputs['numbers'].shape == (3, 2) and outputs['categories'].shape == (3, 2, 4)
  p = jax.nn.softmax(outputs['categories'])
  assert_array_equal(p[:, 0, 3], 0.0)
  assert_array_equal(p[:, 1, 2:], 0.0)
  assert np.all(p[:, 0, :3] > 0.0)


def test_a_table_may_have_numbers_or_categories_alone():
  for name in NETWORKS:
    for numbers, sizes in ((2, ()), (0, (2, 2))):
      x, apply = of(name, numbers, sizes)
      assert {*jax.eval_shape(apply, x)} == {*x}


def test_each_cell_and_each_level_changes_the_others():
  for name in NETWORKS:
    x, apply = of(name, 2, (3, 2))
    first = apply(x)
    moved = {**x, 'categories': x['categories'].at[:, 1].set(0)}
    assert not np.allclose(apply(moved)['numbers'], first['numbers'])
    levels = {n: jnp.full(a.shape, 500.0) for n, a in x.items()}
    levels['numbers'] = levels['numbers'].at[:, 0].set(0.0)
    assert not np.allclose(apply(x, levels)['categories'], first['categories'])


def test_outputs_begin_at_0():
  x = {'numbers': jnp.ones((2, 2)), 'categories': jnp.zeros((2, 1), int)}
  noise = {n: jnp.zeros(a.shape) for n, a in x.items()}
  network = RowNetwork(NETWORKS['dit'], 2, (3,), features=6)
  outputs: Any = jax.jit(network.init_with_output)(jax.random.key(0), x, noise)[0]
  assert_array_equal(outputs['numbers'], 0.0)
  assert_allclose(jax.nn.softmax(outputs['categories'])[..., :3], 1 / 3, rtol=1e-6)

"""The types of arrays on meshes; tests/laws/test_any_mesh.py has the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from diffusion_jax.meshes import (
  has_manual_axes,
  is_split,
  on_auto_axes,
  on_axes_of,
  placed_as,
  whole_on_each,
)

MESH = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AxisType.Explicit,) * 2)
SPECS = PartitionSpec('data'), PartitionSpec(('data', 'model')), PartitionSpec(None, 'model')


def rows_on(spec):
  return jax.device_put(jnp.arange(32.0).reshape(8, 4), NamedSharding(MESH, spec))


@pytest.mark.parametrize('spec', SPECS)
def test_results_are_split_by_rows_as_x_is(spec):
  table, x = jnp.arange(100.0, 200.0), rows_on(spec)
  index = lambda x, table: table[x.astype(int)]
  with pytest.raises(Exception, match='(?i)shard|mesh'):
    jax.jit(index)(x, table)
  result = jax.jit(on_auto_axes(index))(x, table)
  assert_array_equal(result, table[np.arange(32).reshape(8, 4)])
  assert jax.typeof(result).sharding.spec == PartitionSpec(spec[0], None)


@pytest.mark.parametrize('spec', SPECS)
def test_arrays_of_a_shape_are_split_by_rows_as_x_is(spec):
  x = rows_on(spec)
  zeros = jax.jit(lambda x: placed_as(x, jnp.zeros((8, 2))) + jnp.sum(x))(x)
  assert jax.typeof(zeros).sharding.spec == PartitionSpec(spec[0], None)
  whole = jax.jit(whole_on_each)(x)
  assert jax.typeof(whole).sharding.spec == PartitionSpec(None, None)
  assert_array_equal(whole, x)


def test_a_callback_may_use_arrays_of_the_mesh():
  x, spec = rows_on(SPECS[0]), SPECS[0]

  def solve(x, scale):
    field = on_axes_of(x, lambda number, rows: number * rows * scale)
    return on_auto_axes(lambda y: field(2.0, y) + 1.0)(x)

  result = jax.jit(solve)(x, jax.device_put(jnp.ones((8, 1)), NamedSharding(MESH, spec)))
  assert_array_equal(result, 2.0 * np.asarray(x) + 1.0)


def test_without_explicit_axes_nothing_is_traced():
  x, leaf, function = jnp.ones((8, 4)), jnp.zeros((8, 2)), lambda x: x
  assert placed_as(x, leaf) is leaf and whole_on_each(x) is x
  assert not is_split(x) and not has_manual_axes(x) and not has_manual_axes(rows_on(SPECS[0]))
  assert on_axes_of(x, function) is function and on_auto_axes(function)(x) is x


def test_arrays_of_a_shape_differ_between_devices_of_shard_map_as_x_does():
  mesh = jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
  spec = PartitionSpec('devices')
  seen = []

  def function(x):
    zeros = jnp.zeros((1, 2))
    seen.extend([is_split(x), is_split(zeros), is_split(placed_as(x, zeros)), has_manual_axes(x)])
    return placed_as(x, zeros)

  jax.eval_shape(
    jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec), jnp.ones((8, 4))
  )
  assert seen == [True, False, True, True]

"""Law: each function of rows gives plain jit's numbers under every transform, on every mesh.

Functions: the public ones (tests/calls.py), with their slopes; the networks and objectives of
every kind of model (tests/fusions.py), with the gradients of their parameters. Planted, each
caught: `placed_as` or `on_auto_axes` returns its argument; `whole_weights` asks only whether
there is a mesh; `as_one_key` gives row i the key of row 0; a loss divided by `len(x0)` twice.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from tests import calls
from tests.rows import slow

DEVICES, ROWS = 4, 8
WHOLE, SPLIT = PartitionSpec(), PartitionSpec('devices')


@functools.cache
def mesh_of(kind):
  devices = np.array(jax.devices()[:DEVICES])
  return Mesh(devices, ('devices',), axis_types=(kind,))


def parts(tree):
  return jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), tree)


def joined(tree):
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


class Way(NamedTuple):
  """How a function of rows is run: a change of it, and the mesh that the rows are split over."""

  change: Callable = lambda function: function
  kind: AxisType | None = None
  in_context: bool = False  # of jax.set_mesh

  def run(self, function, rows, trace=False):
    mesh = self.kind and mesh_of(self.kind)
    if mesh:
      rows = jax.device_put(rows, NamedSharding(mesh, SPLIT))
    with jax.set_mesh(mesh) if self.in_context else contextlib.nullcontext():
      program = jax.jit(self.change(function))
      return program.trace(rows) if trace else program(rows)


def by_parts(mapped):
  return lambda function: lambda rows: joined(mapped(function)(parts(rows)))


def shard_map(function, check_vma=True):
  mesh = mesh_of(AxisType.Auto)
  return jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=SPLIT, check_vma=check_vma)


WAYS = {
  'vmap': Way(by_parts(jax.vmap)),
  'scan': Way(by_parts(lambda function: functools.partial(jax.lax.map, function))),
  'remat': Way(jax.checkpoint),
  'pmap': Way(by_parts(jax.pmap)),
  'shard_map': Way(shard_map),
  'auto': Way(kind=AxisType.Auto, in_context=True),
  'explicit': Way(kind=AxisType.Explicit),
  'set_explicit': Way(kind=AxisType.Explicit, in_context=True),
}
# The loop of diffrax does not pass shard_map's check of types.
ODES = 'log_likelihood', 'exact_likelihood', 'probability_flow', 'adaptive_ode'
WAY_OF_ODES = WAYS | {'shard_map': Way(functools.partial(shard_map, check_vma=False))}


def slope(function):
  """Returns the gradient in x [B, D] of the sum of a function's results; 0 without real ones."""

  def gradient(rows):
    def total(x):
      leaves = jax.tree.leaves(function(rows._replace(x=x)))
      real = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
      return sum((jnp.sum(jnp.sin(leaf)) for leaf in real), jnp.float32(0.0))

    return jax.grad(total)(rows.x)

  return gradient


def rows_of_calls():
  return jax.tree.map(jnp.asarray, calls.batch_of(ROWS))


def check(function, rows, ways, tolerance=1e-5):
  expected = jax.jit(function)(rows)
  for name, way in ways.items():
    result = way.run(function, rows)
    for a, b in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
      a, b = np.asarray(a), np.asarray(b)
      if np.issubdtype(b.dtype, np.floating):
        scale = np.max(np.abs(b), initial=1e-3, where=np.isfinite(b))
        assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=name)
      else:
        np.testing.assert_array_equal(a, b, err_msg=name)


def ways_of(name):
  return WAY_OF_ODES if name in ODES else WAYS


TYPED = 'shard_map', 'set_explicit'  # JAX compares types there, when it traces


@pytest.mark.parametrize('name', calls.ROWS)
def test_every_public_function_is_traced_where_types_name_devices(name):
  for way in TYPED:
    ways_of(name)[way].run(calls.ROWS[name], rows_of_calls(), trace=True)


FEW = 'levels_steps', 'bound_ddpm', 'classifier_free', 'pseudoinverse_guided', 'ancestral'


@pytest.mark.parametrize('name', [*FEW, *(slow(name) for name in calls.ROWS if name not in FEW)])
def test_every_public_function_gives_the_same_numbers(name):
  check(calls.ROWS[name], rows_of_calls(), ways_of(name))


@pytest.mark.slow
@pytest.mark.parametrize('name', calls.ROWS)
def test_every_public_function_has_the_same_slope(name):
  check(slope(calls.ROWS[name]), rows_of_calls(), ways_of(name), 1e-4)

"""Arrays and functions on a mesh of devices whose axes are Explicit or manual.

JAX then knows the devices of an array by its type, which branches and loops compare.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Array = jax.Array
ArrayTree = TypeVar('ArrayTree')  # a tree of arrays


def on_auto_axes(function: Callable[..., ArrayTree]) -> Callable[..., ArrayTree]:
  """Returns function(x, *others), inside which no axis of x's mesh is Explicit.

  On Explicit axes a product or an index needs the sharding of its result; on Auto
  axes XLA chooses it. The leaves [B, ...] of the result are split along their first
  axis as x [B, ...] is, and not along others. The function may not use arrays of
  this mesh that are not among its arguments.
  """

  def call(x, *others):
    rows = _explicit_rows(x)
    if rows is None:
      return function(x, *others)
    run: Any = jax.sharding.auto_axes(function, out_sharding=rows)
    return run(x, *others)

  return call


def where_it_can(function: Callable[..., ArrayTree]) -> Callable[..., ArrayTree]:
  """Returns function(x, *others), on Auto axes if Explicit ones ask it for a sharding.

  So a function that names its shardings keeps its axes, and any other takes those of
  `on_auto_axes`, as a network of the user's own.
  """

  def call(x, *others):
    if _explicit_rows(x) is None:
      return function(x, *others)
    try:
      return function(x, *others)
    except Exception as error:
      if type(error).__name__ != 'ShardingTypeError':  # which JAX does not export
        raise
    try:
      return on_auto_axes(function)(x, *others)
    except Exception as error:
      error.add_note(
        'This function is computed by diffusion_jax.meshes.on_auto_axes, as it does not say the '
        'shardings of its results on Explicit axes. Give arrays of this mesh as its parameters'
      )
      raise

  return call


def on_axes_of(x: Array, function: Callable[..., ArrayTree]) -> Callable[..., ArrayTree]:
  """Returns function(number, rows), for calls inside `on_auto_axes`, as outside of it.

  Explicit axes of x's mesh are Explicit in the function, which may thus use arrays of
  this mesh. The leaves [B, ...] of rows are split as x is along its first axis.
  """
  rows = _explicit_rows(x)
  if rows is None:
    return function
  whole = NamedSharding(rows.mesh, PartitionSpec())
  run: Any = jax.sharding.explicit_axes(function, in_sharding=(whole, rows))
  return run


def is_split(x: Array) -> bool:
  """Returns whether x differs from device to device of `jax.shard_map`, by its type."""
  return bool(_varying(x))


def has_manual_axes(x: Array) -> bool:
  """Returns whether x is a device's part of an array, under `jax.shard_map` or `jax.pmap`."""
  return AxisType.Manual in jax.typeof(x).sharding.mesh.axis_types


def placed_as(x: Array, tree: ArrayTree) -> ArrayTree:
  """Returns the arrays [B, ...] or [] of a tree, with their rows on the devices of x's rows.

  Arrays that are made of a shape need it: under `jax.shard_map` JAX otherwise takes
  them for equal on all devices, and on Explicit axes they are not split.
  """
  rows, varying = _explicit_rows(x), _varying(x)

  def place(leaf):
    missing = tuple(varying - _varying(leaf))
    if missing:
      leaf = jax.lax.pcast(leaf, missing, to='varying')
    return jax.sharding.reshard(leaf, rows) if rows and jnp.ndim(leaf) else leaf

  return jax.tree.map(place, tree)


def whole_on_each(x: Array) -> Array:
  """Returns x, which is no longer split along Explicit axes of a mesh."""
  mesh = jax.typeof(x).sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def _varying(x):
  # The axes of `jax.shard_map` along which x differs from device to device.
  return jax.typeof(x).manual_axis_type.varying


def _explicit_rows(x):
  # How the rows of x are split over a mesh with Explicit axes; None without one.
  placement = jax.typeof(x).sharding
  if AxisType.Explicit not in placement.mesh.axis_types:
    return None
  return NamedSharding(placement.mesh, PartitionSpec(*placement.spec[:1]))

"""Placement of arrays on one mesh (data, fsdp), for plain `jax.jit`.

Every batch is split over all devices of the mesh. Large parameters, their
average and their optimiser state are split over the `fsdp` axis and copied
along `data`: 8x1 is data parallelism, 1x8 is fully sharded, 2x4 is both. XLA
inserts the communication; the training step stays the same.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion_jax.aliases import PyTree

AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence | None = None) -> Mesh:
  """Returns a mesh of data x fsdp devices; data=-1 takes all that remain.

  devices: by default all devices of the run. Raises ValueError if there are too
  few.
  """
  devices = jax.devices() if devices is None else devices
  count, problem = len(devices), ''
  size = count if data == -1 else data * fsdp
  if fsdp < 1 or (data < 1 and data != -1):
    problem = (
      'does not exist: both sizes must be at least 1; a first size of -1 takes '
      'all remaining devices'
    )
  elif data == -1 and count % fsdp:
    fits = math.gcd(count, fsdp)
    problem = f'needs a multiple of {fsdp} devices, there are {count}: -1,{fits} takes all of them'
  elif size > count:
    problem = f'needs {size} devices, there are {count}'
  elif jax.process_count() > 1 and size < count:
    problem = (
      f'leaves out {count - size} of the {count} devices: several processes '
      'need a mesh of all devices'
    )
  if problem:
    raise ValueError(f'a mesh of {data}x{fsdp} {problem}')
  # Explicit axes, the default, would require output shardings from networks.
  shape, types = (size // fsdp, fsdp), (AxisType.Auto,) * 2
  return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:size])


def host_mesh() -> Mesh:
  """Returns a mesh of one CPU of this process.

  It has the default device where JAX_PLATFORMS leaves out CPUs.
  """
  try:
    devices = jax.local_devices(backend='cpu')
  except RuntimeError:
    devices = jax.local_devices()
  return make_mesh(1, 1, devices[:1])


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that puts a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def placed(shapes: PyTree, place: NamedSharding) -> PyTree:
  """Returns shapes with a sharding, the same for all."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
  """Returns a function to jit, traced with the mesh in context.

  Networks may then constrain the sharding of their arrays.
  """

  @functools.wraps(function)
  def traced(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return traced


def platform_of(mesh: Mesh) -> str:
  """Returns the platform of a mesh's devices: 'cpu', 'gpu' or 'tpu'."""
  return mesh.devices.flat[0].platform


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that splits the first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


# Arrays of fewer elements are not worth a transfer at each step.
MIN_SIZE = 2**16


def fsdp_sharding(mesh: Mesh, tree: PyTree, min_size: int = MIN_SIZE) -> PyTree:
  """Returns the sharding of each leaf of a tree of arrays or shapes.

  A leaf of min_size elements or more is split along its largest axis that the
  `fsdp` axis divides. Smaller leaves, and leaves without such an axis, are
  copied.
  """
  parts = mesh.shape['fsdp']

  def place(leaf):
    axes = [i for i, n in enumerate(leaf.shape) if n % parts == 0]
    if parts == 1 or leaf.size < min_size or not axes:
      return replicated(mesh)
    largest = max(axes, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, 'fsdp'))

  return jax.tree.map(place, tree)


def local_rows(mesh: Mesh, batch_size: int) -> slice:
  """Returns the rows of a global batch that this process holds.

  Raises ValueError if the devices do not divide the batch.
  """
  if batch_size % mesh.size:
    raise ValueError(f'a batch of {batch_size} cannot be split over {mesh.size} devices')
  index = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  starts, stops = zip(
    *(rows[0].indices(batch_size)[:2] for rows in index.values() if rows), strict=True
  )
  rows = slice(min(starts), max(stops))
  if len(set(starts)) * (batch_size // mesh.size) != rows.stop - rows.start:
    raise ValueError('the rows of this process are not contiguous')
  return rows


def to_global(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict:
  """Returns the global batch, made from the rows of each process."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def spread(tree: PyTree, shardings: PyTree) -> PyTree:
  """Returns arrays that all processes have, with a sharding for each."""
  return jax.tree.map(
    lambda x, place: jax.make_array_from_callback(np.shape(x), place, np.asarray(x).__getitem__),
    tree,
    shardings,
  )


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
  """Copies arrays that all processes have to every device."""
  return spread(tree, jax.tree.map(lambda _: replicated(mesh), tree))

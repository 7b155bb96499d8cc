"""Where a network computes, and where its weights are while a layer does."""

import re
from typing import TypeVar

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, PartitionSpec

ArrayTree = TypeVar('ArrayTree')  # a tree of arrays


# The names of NVIDIA's GPUs from Ampere on, which have bfloat16 and for which
# cuDNN has attention. Older ones are called Tesla V100 or GeForce RTX 2080.
_SINCE_AMPERE = re.compile(r'NVIDIA ([ABHL]|G[BH])\d|NVIDIA (GeForce )?RTX [3-9AP]')


def on_gpu() -> bool:
  """Returns whether the mesh in use consists of GPUs; False without a mesh.

  Layers choose by it what is fast there; the mesh is `jax.set_mesh`'s or
  `jax.sharding.use_abstract_mesh`'s. JAX itself cannot be asked while it
  traces: a program may be compiled for devices that are not here.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device is not None and device.platform == 'gpu'


def on_one_device() -> bool:
  """Returns whether the mesh in use is empty, or is one device."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or mesh.size == 1


def has_cudnn_attention() -> bool:
  """Returns whether the mesh in use consists of GPUs with cuDNN's attention."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return on_gpu() and bool(_SINCE_AMPERE.match(device.device_kind))


def whole_weights(weights: ArrayTree) -> ArrayTree:
  """Returns the arrays of a tree as copies on every device of the mesh in use.

  Without a mesh (`jax.sharding.use_abstract_mesh`), or with one that has no Auto
  axis, as under `jax.shard_map` and `jax.pmap`, they are returned unchanged.
  By default XLA splits the activations of a layer instead of its weights if
  both are split along the same axis of the mesh.
  """
  if AxisType.Auto not in jax.sharding.get_abstract_mesh().axis_types:
    return weights
  return jax.tree.map(_whole, weights)


@jax.custom_jvp
def _whole(x):
  # The first constraint leaves x as it is, in parts. Without it XLA gathers
  # the operand of a conversion to bfloat16, which has twice the bytes.
  parts = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * x.ndim)
  x = with_sharding_constraint(x, parts)
  return with_sharding_constraint(x, PartitionSpec())


# The derivative has no constraint: a gradient that had to be whole on every
# device would be summed by an all-reduce instead of a reduce-scatter.
_whole.defjvps(lambda tangent, whole, x: tangent)

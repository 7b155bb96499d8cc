"""Where the weights of a network are while a layer computes with them."""

from typing import TypeVar

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import PartitionSpec

Tree = TypeVar('Tree')  # of arrays


def whole_weights(weights: Tree) -> Tree:
  """Returns the arrays of a tree as copies on every device of the mesh in use.

  Without a mesh (`jax.sharding.use_abstract_mesh`) they are returned unchanged.
  By default XLA splits the activations of a layer instead of its weights if
  both are split along the same axis of the mesh.
  """
  if jax.sharding.get_abstract_mesh().empty:
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

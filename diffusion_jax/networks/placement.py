"""Where the weights of a network are while a layer computes with them."""

from typing import Any

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import PartitionSpec


def whole_weights(weights: Any) -> Any:
  """Returns the arrays of a tree as copies on every device of the mesh in use.

  Without a mesh (`jax.sharding.use_abstract_mesh`) they are returned as they
  are. Left to itself, XLA splits the activations of a layer in place of its
  weights where both are split along the same axis of the mesh.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return weights

  def whole(x):
    # The first constraint leaves x as it is, in parts. Without it XLA gathers
    # the operand of a conversion to bfloat16, which has twice the bytes.
    parts = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * x.ndim)
    x = with_sharding_constraint(x, parts)
    return with_sharding_constraint(x, PartitionSpec())

  return jax.tree.map(whole, weights)

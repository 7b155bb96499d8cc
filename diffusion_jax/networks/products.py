"""The product of linear layers, over rows."""

from typing import Any

import jax
from jax import lax

Array = jax.Array


def rows_dot_general(
  x: Array, kernel: Array, dimension_numbers: Any, **options: Any
) -> Array:
  """Computes x kernel as one matrix product: [..., C], [C, D] -> [..., D].

  The `dot_general` of `nn.Dense`. The gradient of a product with several row
  axes sums over all of them, and XLA:CPU transposes the cotangent for it in the
  loop that computes it: 18 % of the processor time of DDPM++'s gradient.
  """
  del dimension_numbers  # those of a linear layer
  rows = x.reshape(-1, x.shape[-1])
  out = lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
  return out.reshape(*x.shape[:-1], out.shape[-1])

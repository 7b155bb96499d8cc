"""Products and sums that XLA:CPU computes one by one.

Its YNNPACK fusions compute a sum of products of products wrongly, in silence
(docs/performance.md, "On a CPU"). tests/core/test_products.py says when this module
can go.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def finished(x: ArrayLike) -> Array:
  """Returns x, which XLA:CPU does not fuse with sums or products that read it.

  It rounds x to its own precision, which changes no value and no gradient.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  kind = jnp.finfo(x.dtype)
  return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)


def einsum(subscripts: str, *arrays: ArrayLike) -> Array:
  """Computes a finished `jnp.einsum` in full precision on every device."""
  inputs = map(finished, arrays)  # and what they are in gradients
  return finished(jnp.einsum(subscripts, *inputs, precision='highest'))

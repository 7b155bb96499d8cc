"""Products and sums that XLA:CPU computes one by one.

XLA:CPU's YNNPACK fusions silently compute a sum of products of products wrongly
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


def softmax(logits: Array, scale: ArrayLike = 1.0) -> Array:
  """Computes the softmax of logits / scale over the last axis, also of 1e10 and more.

  XLA may compute logits twice, whose roundings differ by more than 1 after the
  division: the largest weight is 1 by its index, and no other is above it.
  """
  best = jnp.argmax(logits, axis=-1, keepdims=True)
  below = jnp.minimum(logits - jnp.max(logits, axis=-1, keepdims=True), 0.0)
  index = jax.lax.broadcasted_iota(best.dtype, logits.shape, logits.ndim - 1)
  below = jnp.where(index == best, 0.0, below)
  weights = jnp.exp(below / scale)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)


def einsum(subscripts: str, *arrays: ArrayLike) -> Array:
  """Computes a finished `jnp.einsum` in full precision on every device."""
  inputs = map(finished, arrays)  # the gradients of the inputs are finished too
  return finished(jnp.einsum(subscripts, *inputs, precision='highest'))

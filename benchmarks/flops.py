"""Floating-point operations of a network, and the rate of a device."""

import time

import jax
import jax.numpy as jnp


def counted(compiled):
  """Returns the FLOP of a compiled program by XLA's own analysis, or None.

  It counts what the program does: fewer where a convolution is computed by
  Winograd's algorithm, and none in a call of a library.
  """
  cost = compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return (cost or {}).get('flops')


def matmul_rate(dtype, size, rounds=10):
  """Returns the FLOP/s of a product of two square matrices, the best round."""
  a = jax.random.normal(jax.random.key(0), (size, size), dtype)
  b = jax.random.normal(jax.random.key(1), (size, size), dtype)
  product = jax.jit(jnp.matmul).lower(a, b).compile()
  best = float('inf')
  for _ in range(rounds + 1):
    start = time.perf_counter()
    jax.block_until_ready(product(a, b))
    best = min(best, time.perf_counter() - start)
  return 2 * size**3 / best

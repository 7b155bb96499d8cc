"""Floating-point operations of a network, and the rate of a device."""

import time

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.app import models
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.edm2 import EDM2Block
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.magnitude import MPConv
from diffusion_jax.networks.transformer_block import QKV, Block


def analytic(model, batch):
  """Returns the FLOP of the products of a forward pass, 2 for each term.

  They are counted layer by layer, for any algorithm: a convolution has 2 k^2
  C_in per output, a dense layer 2 C_in, attention 4 (H W)^2 C per image. A
  training step has three times as many.
  """
  network = model.network()
  found = {}

  def count(layer, args, kwargs, context):
    out = layer(*args, **kwargs)
    path = context.module.path
    if context.method_name == '__call__':  # blocks in a scan are traced twice
      scanned = any(name.startswith('blocks_') for name in path)
      times = network.num_blocks if scanned else 1
      found[path] = times * of_layer(context.module, args[0], out)
    return out

  with nn.intercept_methods(count):
    models.shapes(model)  # for one image
  return batch * sum(found.values())


def of_layer(layer, x, out):
  """Returns the FLOP of a layer's own products."""
  if isinstance(layer, Conv | MPConv):
    return 2 * max(layer.kernel_size, 1) ** 2 * x.shape[-1] * out.size
  if isinstance(layer, nn.Dense):
    return 2 * x.shape[-1] * out.size
  if isinstance(layer, QKV):
    return 2 * x.shape[-1] * sum(array.size for array in out)
  attends = isinstance(layer, EDM2Block) and layer.num_heads
  if isinstance(layer, Attention) or attends:
    b, h, w, c = out.shape
    return 4 * b * (h * w) ** 2 * c
  if isinstance(layer, Block):  # attention between its tokens
    b, tokens, width = x[0].shape
    return 4 * b * tokens**2 * width
  return 0


def counted(compiled):
  """Returns the FLOP of a compiled program by XLA's own analysis, or None.

  It counts what the program does: fewer than `analytic` where a convolution is
  computed by Winograd's algorithm, and none in a call of a library.
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

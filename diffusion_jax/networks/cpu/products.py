"""The matrix product of linear layers, which is fast on XLA:CPU."""

import jax
from jax import lax

from diffusion_jax.networks.cpu.bilinear import bilinear, transposes

Array = jax.Array

# The gradient of a product with several row axes sums over all of them, and
# XLA:CPU transposes the cotangent for it in the loop that computes it: 18 % of
# the processor time of DDPM++'s gradient. A product of rows has one such axis.


def _plain(x, kernel, precision):
  axes = (((x.ndim - 1,), (0,)), ((), ()))
  return lax.dot_general(x, kernel, axes, precision=precision)


def _rows(x, kernel, precision):
  out = _plain(x.reshape(-1, x.shape[-1]), kernel, precision)
  return out.reshape(*x.shape[:-1], out.shape[-1])


_product = bilinear('linear', _plain, transposes(_rows))


def linear(
  x: Array,
  kernel: Array,
  dimension_numbers: object = None,
  precision: lax.PrecisionLike = None,
) -> Array:
  """Computes x kernel: [..., C], [C, D] -> [..., D].

  It can be the `dot_general` of `nn.Dense`, which gives the dimension numbers
  of this product. The default of `precision` is the value of
  `jax.default_matmul_precision` at the call, also for the gradients.
  """
  # `jax.config` makes its attributes at run time.
  if precision is None:
    precision = jax.config.values['jax_default_matmul_precision']
  return _product(x, kernel, precision)

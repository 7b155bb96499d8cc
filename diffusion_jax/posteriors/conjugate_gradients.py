"""Conjugate gradients with an own step and an own end for each example."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import data_axes, expand_to, sum_data_axes
from diffusion_jax.meshes import placed_as

Array = jax.Array

_TOLERANCE = 1e-3  # the rms residual that ends the iteration, in standard deviations of y's noise
_ROUNDING = 1e-6  # the same, as a fraction of the first residual


class Product(NamedTuple):
  """A matrix times a direction.

  image: [B, ...] like the direction; move: what v = direction adds to the
  solution; error: of the curvature direction^T image, [B], 0 if it is exact.
  """

  image: Array
  move: Array
  error: Array | float = 0.0


def solve(
  apply: Callable[[Array], Product],
  residual: Array,
  num_iterations: int,
  variance: Array | float = 0.0,
) -> Array:
  """Solves matrix v = residual for each example by conjugate gradients.

  An example ends after num_iterations, with a residual of 1e-3 standard
  deviations of y's noise or 1e-6 of the first one, and before a direction whose
  curvature is not above its error; only the first direction is then taken, with
  the error in place of the curvature, which is a shorter step. In exact
  arithmetic one iteration per number in y is exact. variance: of y's noise.
  Returns the sum of the moves.
  """
  first = residual, _dot(residual, residual)
  noise = _dot(jnp.ones_like(residual), jnp.ones_like(residual) * variance)
  enough = jnp.maximum(_TOLERANCE**2 * noise, _ROUNDING**2 * first[1])

  def iterate(carry, is_first):
    move, residual, direction, square, runs = carry
    image, part, error = apply(direction)
    curvature = _dot(direction, image)
    certain = curvature > error
    bounded = jnp.maximum(curvature, error)
    runs &= (certain | is_first) & (bounded > 0.0)
    size = jnp.where(runs, square / jnp.where(runs, bounded, 1.0), 0.0)
    move = move + expand_to(size, part) * part
    residual = residual - expand_to(size, image) * image
    last_square, square = square, _dot(residual, residual)
    runs &= certain & (square > enough)
    momentum = jnp.where(runs, square / jnp.where(runs, last_square, 1.0), 0.0)
    direction = residual + expand_to(momentum, residual) * direction
    return move, residual, direction, square, runs

  def body(carry, is_first):
    # A loop of fixed length has a gradient; nothing is computed after the end.
    runs = jnp.any(carry[-1])
    carry = jax.lax.cond(runs, iterate, lambda carry, _: carry, carry, is_first)
    return carry, None

  moved = jax.eval_shape(apply, residual).move
  start = placed_as(residual, jnp.zeros(moved.shape, moved.dtype))
  carry = start, *first[:1], *first, first[1] > 0.0
  is_first = jnp.arange(num_iterations) == 0
  return jax.lax.scan(body, carry, is_first)[0][0]


def _dot(a, b):
  # Returns the inner product for each example, [B].
  return sum_data_axes(a * b)


def least_squares(
  forward: Callable[[Array], Array],
  transpose: Callable[[Array], Array],
  residual: Array,
  variance: Array,
  precision: Array | float,
  num_iterations: int,
) -> Array:
  """Finds argmin_v |residual - forward(v)|^2 / variance + precision |v|^2.

  By conjugate gradients in v (Hestenes & Stiefel 1952, section 10), with less
  rounding than `solve`. An example ends after num_iterations or when the
  gradient has fallen by 1e-7, with the v of its least gradient; one iteration
  per number in y is exact but for rounding. variance: of y's noise, broadcasts
  to y; precision: to v.
  """
  weight, most = _weights(jnp.broadcast_to(variance, residual.shape))
  downhill = transpose(weight * residual)
  ridge = expand_to(most, downhill) * precision
  square = _dot(downhill, downhill)
  enough = 1e-14 * square

  def iterate(carry):
    v, residual, direction, square, best, lowest = carry
    image = forward(direction)
    curvature = _dot(weight * image, image) + _dot(ridge * direction, direction)
    runs = (square > enough) & (curvature > 0.0)
    size = jnp.where(runs, square / jnp.where(runs, curvature, 1.0), 0.0)
    v = v + expand_to(size, v) * direction
    residual = residual - expand_to(size, residual) * image
    downhill = transpose(weight * residual) - ridge * v
    last_square, square = square, _dot(downhill, downhill)
    # Rounding makes late iterates worse, up to NaN: the best one is returned.
    better = runs & (square < lowest)
    best = jnp.where(expand_to(better, v), v, best)
    lowest = jnp.where(better, square, lowest)
    runs &= square < 1e6 * lowest
    square = jnp.where(runs, square, 0.0)
    momentum = jnp.where(runs, square / jnp.where(runs, last_square, 1.0), 0.0)
    direction = downhill + expand_to(momentum, downhill) * direction
    return v, residual, direction, square, best, lowest

  def body(carry, _):
    runs = jnp.any(carry[3] > enough)
    return jax.lax.cond(runs, iterate, lambda carry: carry, carry), None

  zeros = jnp.zeros_like(downhill)
  carry = zeros, residual, downhill, square, zeros, square
  return jax.lax.scan(body, carry, length=num_iterations)[0][4]


def _weights(variance):
  # Returns 1 / variance in units of the largest one, which may be 0, and that.
  most = jnp.max(variance, axis=data_axes(variance))
  unit = expand_to(most, variance)
  noisy = unit > 0.0
  least = jnp.maximum(variance, 1e-6 * unit)
  return jnp.where(noisy, unit / jnp.where(noisy, least, 1.0), 1.0), most

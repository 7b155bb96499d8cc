"""Conjugate gradients with an own step for each example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import expand_to, sum_data_axes

Array = jax.Array


def solve(
  apply: Callable[[Array], tuple[Array, Array]],
  residual: Array,
  num_iterations: int,
) -> Array:
  """Solves matrix v = residual for each example by conjugate gradients.

  apply: direction [B, ...] -> (matrix times direction, product), where the
  product is linear in the direction. Returns the product of v. A direction
  without positive curvature, which the Jacobian of a network allows, ends the
  iterations of its example.
  """
  direction, square = residual, _dot(residual, residual)
  solution = jnp.zeros((), residual.dtype)
  for _ in range(num_iterations):
    image, product = apply(direction)
    size = _ratio(square, _dot(direction, image))
    solution = solution + expand_to(size, product) * product
    residual = residual - expand_to(size, image) * image
    last_square, square = square, _dot(residual, residual)
    momentum = expand_to(_ratio(square, last_square), residual)
    direction = residual + momentum * direction
  return solution


def _dot(a, b):
  # Returns the inner product for each example, [B].
  return sum_data_axes(a * b)


def _ratio(a, b):
  # The ratio is 0 if the residual is 0, or if b is not positive, which the
  # Jacobian of a network allows.
  good = (a > 0.0) & (b > 0.0)
  return jnp.where(good, a / jnp.where(good, b, 1.0), 0.0)

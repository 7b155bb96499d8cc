"""Measurements y of an image: what is known of x_0, and with how much noise."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from diffusion_jax.core.broadcasting import expand_to, sum_data_axes
from diffusion_jax.core.concrete import check_not_negative, check_positive

Array = jax.Array

# x_0 [B, ...] -> [B] in nats: `Measurement.log_prob`, a reward.
LogLikelihood = Callable[[Array], Array]


class Measurement(NamedTuple):
  """A measurement y = forward(x_0) + std n, n ~ N(0, I).

  y: [B, ...] or [1, ...]; forward: x_0 [B, ...] -> [B, ...], for each image
  separately; std: in the units of y, [], [B] or like y.
  """

  y: Array
  forward: Callable[[Array], Array]
  std: Array | float = 0.0

  def variance(self, like: Array) -> Array:
    """Returns std^2, which broadcasts to an array [B, ...].

    Raises ValueError if std is negative.
    """
    check_not_negative(std=self.std)
    return expand_to(jnp.asarray(self.std, like.dtype) ** 2, like)

  def log_prob(self, x0: Array) -> Array:
    """Computes log p(y | x_0) in nats, [B]; ValueError unless std > 0."""
    check_positive(std=self.std)
    estimate = self.forward(x0)
    variance = self.variance(estimate)
    square = (self.y - estimate) ** 2 / variance
    return -0.5 * sum_data_axes(square + jnp.log(2.0 * math.pi * variance))

  def distance(self, x0: Array) -> Array:
    """Computes |y - forward(x_0)|, [B]."""
    square = sum_data_axes((self.y - self.forward(x0)) ** 2)
    # The gradient of a square root at 0 would be NaN.
    return jnp.sqrt(square + 1e-12)

  def transpose(self, x0: Array) -> Callable[[Array], Array]:
    """Returns the adjoint of `forward`, y -> x, for images of x0's shape.

    Raises TypeError if `forward` is not linear.
    """
    check_linear(self.forward, x0)
    transposed = jax.linear_transpose(self.forward, x0)
    return lambda y: transposed(y)[0]


def check_linear(forward: Callable[[Array], Array], x0: Array) -> None:
  """Raises TypeError if forward(u + v) is not forward(u) + forward(v).

  u and v are random images of x0's shape. A function that depends on traced
  arrays is not checked.
  """
  with jax.ensure_compile_time_eval():
    u, v = jax.random.normal(jax.random.key(0), (2, *x0.shape), x0.dtype)
    sides = forward(u + v), forward(u) + forward(v)
    error, size = (jnp.max(jnp.abs(a)) for a in (sides[0] - sides[1], sides[1]))
    if isinstance(error, Tracer) or error <= 1e-3 * size:
      return
  raise TypeError(
    'forward is not linear, as this method needs: take one that needs only '
    'log p(y | x_0)'
  )


def poisson_log_prob(
  y: Array, forward: Callable[[Array], Array], peak: float
) -> LogLikelihood:
  """Returns x_0 -> log p(y | x_0) [B] of counts y, in nats.

  The rate of a count is peak (forward(x_0) + 1) / 2, at least 0.001: `peak`
  photons for white.
  """

  def log_prob(x0):
    rate = jnp.maximum(peak * 0.5 * (forward(x0) + 1.0), 1e-3)
    return sum_data_axes(jax.scipy.stats.poisson.logpmf(y, rate))

  return log_prob

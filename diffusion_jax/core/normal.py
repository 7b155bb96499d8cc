"""Diagonal Gaussians, element by element, in nats."""

import math
from typing import Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_float
from diffusion_jax.core.checked import checked
from diffusion_jax.ranges import Several, Shape

Array = jax.Array
Cdf = Literal['exact', 'tanh']


Moment = TypeVar('Moment', bound=Array | float)


class Normal(NamedTuple, Generic[Moment]):
  """N(mean, variance): fields broadcast against one another."""

  mean: Moment
  variance: Moment


STANDARD = Normal(0.0, 1.0)


@checked
def kl(q: Normal, p: Normal) -> Array:
  """Computes KL(q || p) per element [B, ...], in nats; variances > 0."""
  excess = (q.variance - p.variance) / p.variance
  # Near 0 the difference of excess and log is of second order; log1p keeps its
  # digits.
  log_ratio = jnp.where(
    jnp.abs(excess) < 0.5, jnp.log1p(jnp.clip(excess, -0.5, 0.5)), jnp.log(q.variance / p.variance)
  )
  square = jnp.square(q.mean - p.mean) / p.variance
  return 0.5 * (excess - log_ratio + square)


@checked
def log_prob(p: Normal, x: Array) -> Array:
  """Computes log N(x; mean, variance) per element [B, ...], in nats."""
  square = jnp.square(x - p.mean) / p.variance
  return -0.5 * (square + jnp.log(p.variance) + math.log(2.0 * math.pi))


def bin_edges(
  mean: Array | float, scale: Array | float, x: Array, num_levels: Several
) -> tuple[Array, Array]:
  """Returns (edge - mean) / scale for both edges of the bin around x.

  x is one of `num_levels` values evenly spaced on [-1, 1]; a bin reaches half a
  spacing to either side, and the two outer bins reach to infinity.
  """
  half = 1.0 / (num_levels - 1)
  # Any x within half a bin of an outer value counts as that value, so rounding
  # of x does not matter.
  lower = jnp.where(x < half - 1.0, -jnp.inf, (x - half - mean) / scale)
  upper = jnp.where(x > 1.0 - half, jnp.inf, (x + half - mean) / scale)
  return lower, upper


@checked
def discretized_log_prob(
  p: Normal, x: Array, num_levels: Several = 256, cdf: Cdf = 'exact'
) -> Array:
  """Computes the log of p's mass in the bin around x, in nats (DDPM Eq. 13).

  Returns an array of the shape of x. Raises ValueError for fewer than 2 levels.

  Args:
    p: Broadcasts against x.
    x: `num_levels` values evenly spaced on [-1, 1]; bins as in `bin_edges`.
    cdf: 'exact', which works in log space without a floor, or 'tanh', the
      published approximation with a floor of 1e-12. ValueError for others.
  """
  x, p = as_float(x), Normal(*map(as_float, p))
  scale = jnp.sqrt(p.variance)
  lower, upper = bin_edges(p.mean, scale, x, num_levels)
  if cdf == 'tanh':
    return jnp.log(jnp.maximum(_tanh_cdf(upper) - _tanh_cdf(lower), 1e-12))
  return _log_cdf_difference(lower, upper, 2.0 / (num_levels - 1) / scale)


def _log_cdf_difference(lower: Array, upper: Array, width: Array) -> Array:
  # log(cdf(b) - cdf(a)) on the side of the Gaussian where both are small.
  flip = lower > 0.0
  a = jnp.where(flip, -upper, lower)
  b = jnp.where(flip, -lower, upper)
  # In a narrow bin the density is constant to 4e-6, and the difference would be
  # lost in float32. `width` is the width of a bin with two edges.
  middle = (a + b) / 2.0
  narrow = width * (1.0 + jnp.abs(middle)) < 1e-2
  a, b = jnp.where(narrow, -1.0, a), jnp.where(narrow, 1.0, b)
  log_a, log_b = jax.scipy.special.log_ndtr(a), jax.scipy.special.log_ndtr(b)
  wide = log_b + jnp.log(-jnp.expm1(log_a - log_b))
  middle = jnp.where(narrow, middle, 0.0)
  flat = log_prob(STANDARD, middle) + jnp.log(width)
  return jnp.where(narrow, flat, wide)


def _tanh_cdf(z: Array) -> Array:
  z = jnp.clip(z, -1e4, 1e4)  # The cube of a larger number would overflow.
  return 0.5 * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))


@checked
def bits_per_dim(nats: Array | float, data_shape: Shape) -> Array:
  """Converts nats [B] to bits per dimension [B] of data of `data_shape`."""
  return jnp.divide(nats, math.prod(data_shape) * math.log(2.0))

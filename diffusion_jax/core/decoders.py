"""Log-likelihoods of pixels, log p(x | z) per element, in nats.

`normal.discretized_log_prob` is the Gaussian likelihood.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import check_same_shape
from diffusion_jax.core.checked import checked
from diffusion_jax.core.normal import bin_edges
from diffusion_jax.ranges import Several

Array = jax.Array

# On [-1, 1] a logistic with scale exp(-30) is a point and one with exp(30) is
# flat. Beyond them float32 cannot hold the log of a mass or its gradient.
_MAX_LOG_SCALE = 30.0


@checked
def discretized_logistic_log_prob(
  mean: Array, log_scale: Array | float, x: Array, num_levels: Several = 256
) -> Array:
  """Computes the log of a logistic's mass in the bin around x, in nats.

  PixelCNN++, Eq. 2 (Salimans et al. 2017), without a floor: values, of the
  shape of x, and gradients are finite. x: `num_levels` >= 2 values evenly
  spaced on [-1, 1]; mean has the shape of x; log_scale broadcasts against x and
  is clipped to [-30, 30]. ValueError for others.
  """
  check_same_shape(mean=mean, x=x)
  log_scale = jnp.clip(log_scale, -_MAX_LOG_SCALE, _MAX_LOG_SCALE)
  lower, upper = bin_edges(mean, jnp.exp(log_scale), x, num_levels)
  # The product cdf(b) - cdf(a) = cdf(b) (1 - cdf(a)) (1 - exp(a - b)) avoids
  # cancellation.
  width = 2.0 / (num_levels - 1) * jnp.exp(-log_scale)
  inner = jnp.isfinite(upper - lower)
  between = jnp.where(inner, jnp.log(-jnp.expm1(-width)), 0.0)
  return jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + between


@checked
def bernoulli_log_prob(logits: Array, x: Array) -> Array:
  """Computes log p(x) of two grey levels, -1 and 1: p(1) = sigmoid(logits).

  Kingma & Welling 2014, appendix C.1. logits and x must have the same shape.
  """
  check_same_shape(logits=logits, x=x)
  return jax.nn.log_sigmoid(jnp.where(x > 0.0, logits, -logits))

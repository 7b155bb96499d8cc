"""Log-likelihoods of pixels, log p(x | z) per element, in nats.

The Gaussian one is `normal.discretized_log_prob`. Sum over `data_axes`.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import check_same_shape
from diffusion_jax.core.normal import bin_edges

Array = jax.Array

# Among values on [-1, 1] a scale of exp(-30) is a point and one of exp(30) is
# flat; beyond them float32 cannot hold the log of a mass or its gradient.
_MAX_LOG_SCALE = 30.0


def discretized_logistic_log_prob(
  mean: Array, log_scale: Array, x: Array, num_levels: int = 256
) -> Array:
  """Computes log of a logistic's mass in the bin around x (PixelCNN++, Eq. 2).

  Salimans et al. 2017, in nats. There is no floor; values and gradients are
  finite. Raises ValueError as `discretized_log_prob` does, and for unequal
  shapes.

  Args:
    mean: Of the shape of x.
    log_scale: Broadcasts against x; clipped to [-30, 30].
    x: `num_levels` values evenly spaced on [-1, 1].
  Returns:
    The log-mass of each element, of the shape of x.
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


def bernoulli_log_prob(logits: Array, x: Array) -> Array:
  """Computes log p(x) of two grey levels, -1 and 1, p(1) = sigmoid(logits).

  Kingma & Welling 2014, appendix C.1. logits and x have one shape, or
  ValueError is raised.
  """
  check_same_shape(logits=logits, x=x)
  return jax.nn.log_sigmoid(jnp.where(x > 0.0, logits, -logits))

"""The variational bound, term by term, in nats summed over data axes."""

import jax
import jax.numpy as jnp

from diffusion_jax.core.levels import NoiseLevel, check_same_shape

Array = jax.Array


def categorical_nll(
  x0: Array, z0: Array, level: NoiseLevel, num_levels: int = 256
) -> Array:
  """-log p(x_0 | z_0), the decoder of VDM, [B].

  p(v | z_0), per element, is proportional to q(z_0 | v) = N(z_0; alpha v,
  sigma^2) over the `num_levels` values v evenly spaced on [-1, 1] (Kingma et
  al. 2021, section 3.1). x0: [B, ...] on these values; level: [] or [B] of z0.
  """
  check_same_shape(x0=x0, z0=z0)
  values = jnp.linspace(-1.0, 1.0, num_levels)
  values = values.reshape((1,) * x0.ndim + (num_levels,))
  level = level.like(z0[..., None])
  logits = -0.5 * jnp.square(
    (z0[..., None] - level.alpha * values) / level.sigma
  )
  index = jnp.rint((x0 + 1.0) * (num_levels - 1) / 2.0).astype(int)
  log_prob = jax.nn.log_softmax(logits, axis=-1)
  chosen = jnp.take_along_axis(log_prob, index[..., None], axis=-1)[..., 0]
  return -jnp.sum(chosen, axis=tuple(range(1, x0.ndim)))

"""Guidance: functions denoiser -> denoiser.

x_0, eps, v and the score are affine images of one another at fixed x_t, so what
is done to x_0 is done to all of them.
"""

import jax.numpy as jnp

from diffusion_jax.core.denoiser import Denoiser


def clip_denoised(
  denoise: Denoiser, low: float = -1.0, high: float = 1.0
) -> Denoiser:
  """Clips x_0 to the range of the data, [-1, 1] (Ho et al.'s clip_denoised)."""

  def clipped(xt, level):
    prediction = denoise(xt, level)
    return prediction._replace(x0=jnp.clip(prediction.x0, low, high))

  return clipped

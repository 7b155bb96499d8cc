"""Samplers of networks that take their last estimate of x_0 as an input."""

import jax.numpy as jnp

from diffusion_jax.core.denoiser import predict
from diffusion_jax.sampling.sampler import Sampler, check_sampler


def self_conditioned(sampler: Sampler) -> Sampler:
  """Makes a sampler of self-conditioned networks (Analog Bits, Alg. 2).

  Chen et al. 2022. The network is not called more often. Wrap this sampler in
  others, such as `replace_known`, not the other way round.

  Args:
    sampler: The sampler of the denoisers.
  Returns:
    A `Sampler` whose step takes x0_prev [B, ...] -> Denoiser as its denoiser;
    x0_prev is 0 at first, then the estimate at the start of the last step.
  """
  check_sampler(sampler)

  def step(key, x, state, denoise, *, level_s, level_t):
    inner, x0 = state
    denoise_given_x0 = denoise(x0)
    first = predict(denoise_given_x0, x, level_t)

    def cached_denoise(y, level):
      # The sampler evaluates its denoiser at (x, level_t) once more.
      if y is x and level is level_t:
        return first
      return denoise_given_x0(y, level)

    x, inner = sampler.step(
      key, x, inner, cached_denoise, level_s=level_s, level_t=level_t
    )
    return x, (inner, first.x0)

  return Sampler(lambda x: (sampler.init(x), jnp.zeros_like(x)), step)

"""Samplers of networks that see their last estimate (Chen et al. 2022)."""

import jax.numpy as jnp

from diffusion_jax.core.denoiser import predict
from diffusion_jax.sampling.sampler import Sampler, check_sampler


def self_conditioned(sampler: Sampler) -> Sampler:
  """A sampler of networks that are told of the x_0 they predicted last.

  (Analog Bits, Chen et al. 2022, Alg. 2.) `denoise` given to its step is a
  function x0_prev [B, ...] -> Denoiser; x0_prev is 0 at first, then what the
  step before found at its beginning. No further calls of the network. Put other
  samplers of samplers around it, not into it.
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

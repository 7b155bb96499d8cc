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

  def step(key, x, state, denoise_given, level_t, level_s):
    inner, x0 = state
    denoise = denoise_given(x0)
    first = predict(denoise, x, level_t)

    def remembered(y, level):  # the sampler asks the same again
      return first if y is x and level is level_t else denoise(y, level)

    x, inner = sampler.step(key, x, inner, remembered, level_t, level_s)
    return x, (inner, first.x0)

  return Sampler(lambda x: (sampler.init(x), jnp.zeros_like(x)), step)

"""Samplers for networks that take their last estimate of x_0 as an input."""

import jax.numpy as jnp

from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import predict
from diffusion_jax.sampling.sampler import Sampler


@checked
def self_conditioned(sampler: Sampler) -> Sampler:
  """Makes a sampler for self-conditioned networks (Analog Bits, Alg. 2).

  Its `denoise` is a function x0_prev [B, ...] -> Denoiser; x0_prev is 0 at
  first, then the estimate at the start of the last step (Chen et al. 2022).
  This does not call the network more often. Wrappers such as `replace_known`
  must wrap the result, not `sampler`.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    inner, x0 = state
    denoise_given_x0 = denoise(x0)
    first = predict(denoise_given_x0, x, level_t)

    def cached_denoise(y, level):
      # Here the sampler repeats the call at (x, level_t).
      if y is x and level is level_t:
        return first
      return denoise_given_x0(y, level)

    x, inner = sampler.step(key, x, inner, cached_denoise, level_s=level_s, level_t=level_t)
    return x, (inner, first.x0)

  def init(x):
    return sampler.init(x), jnp.zeros_like(x)

  return Sampler(init, step, sampler.keys)

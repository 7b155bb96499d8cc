"""Samplers of bridges, from the source to the data.

With `reversed_bridge` they go from the data to the source.
"""

import jax.numpy as jnp

from diffusion_jax.bridges.equations import (
  BridgeFn,
  bridge_ode_step,
  bridge_posterior,
)
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.ranges import NonNegative
from diffusion_jax.sampling.sampler import Sampler


def bridge_sampler(diffusion: NonNegative, stochastic: bool = False) -> Sampler:
  """Makes the sampler of bridges; its `denoise` is a `BridgeFn`, called at `level.t`.

  It solves the ODE; if stochastic it draws each step from `bridge_posterior`,
  which is the diffusion. Both are of first order. diffusion: the bridge's. The
  first x is a point of the source; levels: of `RectifiedFlowSchedule`.
  """

  def step(key, x, state, denoise: BridgeFn, *, level_s, level_t):
    t, s = level_t.t, level_s.t
    prediction = denoise(x, t)
    if not stochastic:
      return bridge_ode_step(x, prediction, t, s, diffusion), state
    mean, variance = bridge_posterior(x, prediction, t, s, diffusion)
    return mean + jnp.sqrt(variance) * draw_normal(key, x), state

  return Sampler(lambda x: (), step)

"""A flow map as a sampler, so that editing and trajectories serve it too."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


def flow_map_sampler(end: NoiseLevel | None = None) -> Sampler:
  """Makes the sampler whose `denoise` is a `FlowMap`: x_s = map(x_t, t, s).

  With `end`, the clean end of the grid, each step maps there and adds noise up
  to level s: the only way for consistency functions (Song et al. 2023, Alg. 1).
  """

  def step(key, x, state, denoise: Any, *, level_s, level_t):
    if end is None:
      return denoise(x, level_t, level_s), state
    x = denoise(x, level_t, end)
    # As `forward_step`, but without the 0 / 0 of a step from the end to itself.
    s, clean = level_s.expand_to(x), end.expand_to(x)
    ratio = s.alpha / clean.alpha
    added = jnp.maximum(s.sigma**2 - (ratio * clean.sigma) ** 2, 0.0)
    return ratio * x + jnp.sqrt(added) * draw_normal(key, x), state

  return Sampler(lambda x: (), step)

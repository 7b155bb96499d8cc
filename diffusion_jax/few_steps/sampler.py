"""Sampling with flow maps, in one step or several.

`flow_map_sampler` makes them samplers, for editing and trajectories.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import check_numbers
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import Grid, NoiseLevel
from diffusion_jax.few_steps.maps import FlowMap
from diffusion_jax.sampling.sampler import Sampler, sample

Array = jax.Array


@checked
def sample_map(
  key: Key, flow_map: FlowMap, levels: Grid, x: Array, stochastic: bool = False
) -> Array:
  """Takes x from levels[0] to levels[N] in N evaluations of a flow map.

  With `stochastic` each step maps to the last level and adds noise up to the
  next level (Song et al. 2023, Alg. 1: with variance sigma^2 - sigma_min^2).
  Consistency functions need it.

  Args:
    key: [] or [B]; only used if stochastic.
    flow_map: A flow map such as `make_flow_map` returns.
    levels: [N+1], noisiest first (`level_grid`, with end_clean=False if the
      schedule has noise at t = 0); ValueError for two levels with equal times.
    x: [B, ...] at the first level (`prior_sample`).
  """
  check_numbers(
    lambda t: np.diff(t, append=-1.0) < 0.0,
    'the next level must have a smaller time, or the flow map between them '
    'does nothing; use level_grid(..., end_clean=False) if the schedule has '
    'noise at t = 0',
    t=levels.t,
  )
  end = levels.take(-1) if stochastic else None
  return sample(key, flow_map, flow_map_sampler(end), levels, x)


def flow_map_sampler(end: NoiseLevel | None = None) -> Sampler:
  """Makes the sampler whose `denoise` is a `FlowMap`: x_s = map(x_t, t, s).

  With `end`, the clean end of the grid, each step maps there and adds noise up
  to level s, as consistency functions need it (Song et al. 2023, Alg. 1).
  """

  def step(key, x, state, denoise: FlowMap, *, level_s, level_t):
    if end is None:
      return denoise(x, level_t, level_s), state
    x = denoise(x, level_t, end)
    # This is `forward_step` without the 0 / 0 of a step from `end` to itself.
    s, clean = level_s.expand_to(x), end.expand_to(x)
    ratio = s.alpha / clean.alpha
    added = jnp.maximum(s.sigma**2 - (ratio * clean.sigma) ** 2, 0.0)
    return ratio * x + jnp.sqrt(added) * draw_normal(key, x), state

  return Sampler(lambda x: (), step)

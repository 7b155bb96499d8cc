"""Sampling with flow maps, in one step or several."""

import jax

from diffusion_jax.core.flow_map import FlowMap
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.process import forward_step

Array = jax.Array


def sample_map(
  key: Array,
  flow_map: FlowMap,
  levels: NoiseLevel,
  x: Array,
  stochastic: bool = False,
) -> Array:
  """Takes x from levels[0] to levels[N] in N evaluations of a flow map.

  Each step maps to the next level of the grid. With `stochastic` it maps to the
  last one and adds noise up to the next (Song et al. 2023, Alg. 1: where the
  last level has sigma_min, noise of variance sigma^2 - sigma_min^2): the only
  way for consistency functions, which reach the clean end alone.

  Args:
    key: [] or [B]; used if stochastic.
    flow_map: Such as `make_flow_map` returns.
    levels: [N+1], noisiest first (`level_grid`).
    x: [B, ...] at the first level (`prior_sample`).
  Returns:
    x at the last level, [B, ...].
  """
  num_steps = levels.t.shape[0] - 1
  last = levels.take(-1)

  def body(x, inputs):
    key, level_t, level_s = inputs
    if not stochastic:
      return flow_map(x, level_t, level_s), None
    x = flow_map(x, level_t, last)
    return forward_step(x, draw_normal(key, x), last, level_s), None

  # The step to the last level adds no noise, so it is outside of the loop.
  inputs = (
    split_key(key, num_steps),
    levels.take(slice(None, -1)),
    levels.take(slice(1, None)),
  )
  inputs = jax.tree.map(lambda a: a[:-1], inputs)
  if num_steps > 1:
    x, _ = jax.lax.scan(body, x, inputs)
  return flow_map(x, levels.take(-2), last)

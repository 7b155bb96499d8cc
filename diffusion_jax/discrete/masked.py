"""Bounds of masked diffusion (MD4, Shi et al. 2024; MDLM, Sahoo et al. 2024).

With a `masking_process` the bound of D3PM is a weighted cross-entropy of the
masked elements, also in continuous time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import weighted_sum
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.levels import Grid, NoiseLevel, Schedule
from diffusion_jax.core.process import level_slopes
from diffusion_jax.discrete.equations import (
  StateDenoiser,
  element_nll,
  levels_of_step,
  nan_unless_data,
  q_sample_states,
)
from diffusion_jax.discrete.level_paths import mean_on_path, of_noisy
from diffusion_jax.discrete.transitions import StateProcess, States
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def masked_weight(
  schedule: Schedule, num_steps: Size | None = None
) -> Callable[[NoiseLevel], Array]:
  """Makes the weight of the nll of masked elements, level -> [] or [B].

  It is -alpha' / (1 - alpha) in continuous time (Shi et al. 2024, MD4) and T
  (alpha_s - alpha_t) / (1 - alpha_t) with s = t - 1 / T for T steps. The bound
  is the mean over t of weight * nll.
  """
  if num_steps is None:
    return lambda level: level_slopes(schedule, level.t)[1] / level.sigma

  def weight(level):
    step = jnp.rint(level.t * num_steps)
    level_s, level_t = levels_of_step(schedule, step, num_steps)
    return num_steps * (level_t.sigma - level_s.sigma) / level_t.sigma

  return weight


@checked
def masked_bound(
  key: Key,
  denoise: StateDenoiser,
  process: StateProcess,
  schedule: Schedule,
  x0: States,
  *,
  num_times: Size = 1,
  num_steps: Size | None = None,
  levels: Grid | None = None,
) -> Array:
  """Computes the bound -log p(x_0) <= E[weight * nll] in nats, [B].

  The expectation is over times and masks, with `masked_weight`. The times of an
  example are antithetic, u + i / num_times modulo 1 with one u. The schedule
  must be clean at t = 0 and have alpha = 0 at t = 1. key: [] or [B], where
  example i depends only on key i; x0: [B, ...], as in `prior_kl_states`;
  num_times: the number of denoiser calls, at least 1; num_steps: T of a model
  in discrete time, at least 1, None for continuous time.

  levels: a path of the elements, as `staggered` makes, None for all together. The bound
  holds along every path and has the same value for the exact denoiser: by blocks it is
  that of block diffusion (Arriola et al. 2025), token after token the autoregressive log
  likelihood. Elements that stay clean are given, and those that stay masked do not count.
  """
  mask = mask_of(process, 'masked_bound')
  weight = masked_weight(schedule, num_steps)

  def term(keys, place):
    level = schedule(end_of_step(place.level.t, num_steps))
    xt = q_sample_states(keys, x0, process, level)
    nll = jnp.where(xt == mask, element_nll(denoise(xt, level), x0), 0.0)
    return weighted_sum(place.speed * of_noisy(weight, schedule, level), nll)

  nats = mean_on_path(key, schedule, levels, len(x0), num_times, term)
  return nan_unless_data(nats, x0, process)


def end_of_step(t: Array, num_steps: int | None) -> Array:
  """Rounds t in (0, 1] up to a multiple of 1 / num_steps; None keeps t."""
  return t if num_steps is None else jnp.ceil(t * num_steps) / num_steps


def mask_of(process: StateProcess, name: str) -> int:
  """Returns the masked state; ValueError, with the caller's name, if None."""
  if process.mask is None:
    raise ValueError(
      f'{name} needs a process with a masked state, such as masking_process '
      '(transitions absorbing), got one without'
    )
  return process.mask

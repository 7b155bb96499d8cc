"""Bounds of masked diffusion (MD4, Shi et al. 2024; MDLM, Sahoo et al. 2024).

With a `masking_process` the bound of D3PM is a weighted cross-entropy of the
masked elements, also in continuous time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import draw_uniform, key_per_example, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.process import level_slopes
from diffusion_jax.discrete.equations import (
  StateDenoiser,
  levels_of_step,
  nan_unless_data,
  q_sample_states,
  state_nll,
)
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
) -> Array:
  """Computes the bound -log p(x_0) <= E[weight * nll] in nats, [B].

  The expectation is over times and masks, with `masked_weight`. The times of an
  example are antithetic, u + i / num_times modulo 1 with one u. The schedule
  must be clean at t = 0 and have alpha = 0 at t = 1. key: [] or [B], where
  example i depends only on key i; x0: [B, ...], as in `prior_kl_states`;
  num_times: the number of denoiser calls, at least 1; num_steps: T of a model
  in discrete time, at least 1, None for continuous time.
  """
  mask = mask_of(process, 'masked_bound')
  time_keys, keys = split_key(key_per_example(key, len(x0)), 2)
  weight = masked_weight(schedule, num_steps)
  u = draw_uniform(time_keys, jnp.zeros(len(x0)))

  def term(i):
    t = 1.0 - jnp.mod(u + i / num_times, 1.0)
    level = schedule(end_of_step(t, num_steps))
    step_keys = jax.vmap(lambda k: jax.random.fold_in(k, i))(keys)
    xt = q_sample_states(step_keys, x0, process, level)
    nll = state_nll(denoise(xt, level), x0, xt == mask)
    return expand_to(weight(level), nll) * nll

  nats = jnp.mean(jax.lax.map(term, jnp.arange(num_times)), axis=0)
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

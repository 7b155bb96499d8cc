"""Steps t drawn in proportion to their losses (Nichol & Dhariwal 2021, Eq. 18).

The recorded losses are the objective's state, so that a restored run continues
with them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.losses import TimeSampler

Array = jax.Array

_UNIFORM = 0.001  # share of steps that are drawn uniformly


class LossHistory(NamedTuple):
  """Holds the latest losses of each step 1..T, and the steps' probabilities.

  losses: [T, n], in any order; count: [T], number of all recorded losses;
  probs: [T].
  """

  losses: Array
  count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
  probs: Array


def init_loss_history(num_steps: int, length: int = 10) -> LossHistory:
  """Returns an empty history that keeps `length` losses of each step."""
  return LossHistory(
    jnp.zeros((num_steps, length)),
    jnp.zeros(num_steps, jnp.int32),
    # With a weak type the second step of training would be compiled again.
    jnp.full(num_steps, 1.0 / num_steps, jnp.float32),
  )


def loss_aware_times(history: LossHistory) -> TimeSampler:
  """Returns the sampler of t = i / T with i ~ probs.

  Its weight 1 / (T p_i) keeps the mean of a loss unbiased.
  """
  num_steps = len(history.probs)

  def times(key, batch_size, schedule):
    i = jax.random.choice(key, num_steps, (batch_size,), p=history.probs)
    weight = 1.0 / (num_steps * history.probs[i])
    return schedule((i + 1) / num_steps), weight

  return times


def record(history: LossHistory, steps: Array, losses: Array) -> LossHistory:
  """Returns the history with unweighted `losses` [B] at `steps` [B] in 1..T.

  probs are uniform until each step has all its losses. Then they are
  proportional to sqrt(mean(loss^2)), mixed with 0.1 % of uniform.
  """
  num_steps, length = history.losses.shape
  index = steps - 1
  same = index[:, None] == index[None]
  rank = jnp.sum(jnp.tril(same, -1), axis=1)  # among losses of the same step
  latest = rank >= jnp.sum(same, axis=1) - length
  row = jnp.where(latest, index, num_steps)  # row T is dropped
  slot = (history.count[index] + rank) % length
  kept = history.losses.at[row, slot].set(losses, mode='drop')
  count = history.count.at[index].add(1)
  size = jnp.sqrt(jnp.mean(jnp.square(kept), axis=1))
  probs = (1.0 - _UNIFORM) * size / jnp.sum(size) + _UNIFORM / num_steps
  probs = jnp.where(jnp.min(count) >= length, probs, 1.0 / num_steps)
  return LossHistory(kept, count, probs)

"""Steps t drawn in proportion to their losses (Nichol & Dhariwal 2021, Eq. 18).

The recorded losses are state of the objective, so that a restored run continues
with them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.losses import TimeSampler

Array = jax.Array

_UNIFORM = 0.001  # Share of steps that are drawn whatever their losses are.


class LossHistory(NamedTuple):
  """The latest losses of each step 1..T, and the probabilities of the steps.

  losses: [T, n], in no order; count: [T], recorded in all; probs: [T].
  """

  losses: Array
  count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
  probs: Array


def init_loss_history(num_steps: int, length: int = 10) -> LossHistory:
  """Returns an empty history that keeps `length` losses of each step."""
  return LossHistory(
    jnp.zeros((num_steps, length)),
    jnp.zeros(num_steps, jnp.int32),
    # A weak type would compile the second step of training again.
    jnp.full(num_steps, 1.0 / num_steps, jnp.float32),
  )


def loss_aware_times(history: LossHistory) -> TimeSampler:
  """Returns the sampler t = i / T, i ~ probs.

  Its weight, 1 / (T p_i), keeps the mean of a loss unbiased.
  """
  num_steps = len(history.probs)

  def times(key, batch_size, schedule):
    i = jax.random.choice(key, num_steps, (batch_size,), p=history.probs)
    weight = 1.0 / (num_steps * history.probs[i])
    return schedule((i + 1) / num_steps), weight

  return times


def record(history: LossHistory, steps: Array, losses: Array) -> LossHistory:
  """Returns the history after `losses` [B], unweighted, of `steps` [B] in 1..T.

  probs are proportional to sqrt(mean(loss^2)) once every step has all its
  losses, uniform until then, with 0.1 % uniform mixed in.
  """
  num_steps, length = history.losses.shape
  index = steps - 1
  same = index[:, None] == index[None]
  rank = jnp.sum(jnp.tril(same, -1), axis=1)  # Among those of the same step.
  latest = rank >= jnp.sum(same, axis=1) - length
  row = jnp.where(latest, index, num_steps)  # T is dropped.
  slot = (history.count[index] + rank) % length
  kept = history.losses.at[row, slot].set(losses, mode='drop')
  count = history.count.at[index].add(1)
  size = jnp.sqrt(jnp.mean(jnp.square(kept), axis=1))
  probs = (1.0 - _UNIFORM) * size / jnp.sum(size) + _UNIFORM / num_steps
  probs = jnp.where(jnp.min(count) >= length, probs, 1.0 / num_steps)
  return LossHistory(kept, count, probs)

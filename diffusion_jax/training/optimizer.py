"""Adam as the diffusion papers use it, learning-rate schedules, EMA decay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def learning_rate_schedule(
  peak: float, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.Schedule:
  """step -> learning rate: a line from 0 to `peak`, then constant.

  With decay_steps > 0 a cosine follows that reaches 0 at step decay_steps.
  """
  if decay_steps and decay_steps <= warmup_steps:
    raise ValueError(
      f'the decay ends at step {decay_steps}, before the warm-up of '
      f'{warmup_steps} steps does: give more steps, or a shorter warm-up'
    )
  if decay_steps:
    return optax.warmup_cosine_decay_schedule(
      0.0, peak, warmup_steps, decay_steps
    )
  if warmup_steps:
    return optax.warmup_constant_schedule(0.0, peak, warmup_steps)
  return optax.constant_schedule(peak)


def make_optimizer(
  learning_rate: optax.ScalarOrSchedule,
  *,
  clip_norm: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Adam; gradients first clipped to a global norm if clip_norm > 0."""
  adam = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
  if not clip_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def ema_decay(decay: float, warmup: bool = False) -> Callable[[Array], Array]:
  """step (0 at the first update) -> decay of the EMA after that update.

  Constant, except that the average starts at the parameters after the first
  update (Ho et al. 2020). With `warmup` min(decay, (1 + step) / (10 + step)),
  for runs too short to forget their start otherwise.
  """

  def at_step(step):
    if warmup:
      return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jnp.where(step < 1, 0.0, decay)

  return at_step

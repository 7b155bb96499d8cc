"""What changes during training, and nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


class TrainState(NamedTuple):
  """Arrays only: no functions, no key. Restoring it resumes exactly.

  params is one tree, {'network': ..., ...}; objective_state is () unless the
  objective has a memory.
  """

  step: Array
  params: Any
  ema_params: Any
  opt_state: Any
  objective_state: Any


def init_state(
  params: Any,
  optimizer: optax.GradientTransformation,
  objective_state: Any = (),
) -> TrainState:
  """State before the first step; the EMA starts as a copy of params."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # a copy: a donated state must not hold one buffer twice
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    objective_state=objective_state,
  )

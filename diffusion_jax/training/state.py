"""The state of training: all that changes from step to step."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


class TrainState(NamedTuple):
  """Arrays only, no functions and no key; restoring it resumes exactly.

  params is one tree, {'network': ..., ...}; objective_state is () unless the
  objective has one; more_ema_params are averages at other rates, by name.
  """

  step: Array
  params: Any
  ema_params: Any
  opt_state: Any
  objective_state: Any
  more_ema_params: dict


def init_state(
  params: Any,
  optimizer: optax.GradientTransformation,
  objective_state: Any = (),
  more_emas: Iterable[str] = (),
) -> TrainState:
  """Returns the first state; every EMA starts as a copy of params."""

  def copy():  # A donated state must not hold one buffer twice.
    return jax.tree.map(jnp.copy, params)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema_params=copy(),
    opt_state=optimizer.init(params),
    objective_state=objective_state,
    more_ema_params={name: copy() for name in more_emas},
  )

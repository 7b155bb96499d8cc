"""The state of training."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.aliases import Params, PyTree

Array = jax.Array


class TrainState(NamedTuple):
  """Holds all arrays that change during training; restoring resumes exactly.

  params: one tree, {'network': ..., ...}; objective_state: () for objectives
  without state; more_ema_params: averages at other rates, by name.
  """

  step: Array
  params: Params
  ema_params: Params
  opt_state: optax.OptState
  objective_state: PyTree
  more_ema_params: dict[str, Params]


def init_state(
  params: Params,
  optimizer: optax.GradientTransformation,
  objective_state: PyTree = (),
  more_emas: Iterable[str] = (),
) -> TrainState:
  """Returns the first state, where every EMA is a copy of params."""

  def copy():  # a donated state must not hold one buffer twice
    return jax.tree.map(jnp.copy, params)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema_params=copy(),
    opt_state=optimizer.init(params),
    objective_state=objective_state,
    more_ema_params={name: copy() for name in more_emas},
  )

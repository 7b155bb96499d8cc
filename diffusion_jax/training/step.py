"""One step of training, and of evaluation, as pure functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.training.objectives import Mean, Objective
from diffusion_jax.training.state import TrainState

Array = jax.Array


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  ema_decay: Callable[[Array], Array],
) -> Callable[[TrainState, dict, Array], tuple[TrainState, dict]]:
  """(state, batch, key) -> (state, metrics): gradient, update, EMA.

  key is the same at every step (of the run's seed); the step's own is folded in
  from state.step, so a restored state continues exactly. To be jitted, with the
  state donated.
  """
  gradient = jax.value_and_grad(objective, has_aux=True)

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state.step)
    (_, (metrics, objective_state)), grads = gradient(
      state.params, state.objective_state, key, batch
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = 1.0 - ema_decay(state.step)
    ema_params = optax.incremental_update(params, state.ema_params, rate)
    metrics['grad_norm'] = Mean(optax.tree.norm(grads), jnp.ones(()))
    step = state.step + 1
    return TrainState(
      step, params, ema_params, opt_state, objective_state
    ), metrics

  return train_step


def make_eval_step(
  objective: Objective,
) -> Callable[[TrainState, dict, Array], dict]:
  """(state, batch, key) -> metrics of the EMA parameters; changes nothing."""

  def eval_step(state, batch, key):
    _, (metrics, _) = objective(
      state.ema_params, state.objective_state, key, batch
    )
    return metrics

  return eval_step

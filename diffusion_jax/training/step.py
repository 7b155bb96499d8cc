"""One step of training, and of evaluation, as pure functions."""

from collections.abc import Callable, Mapping

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
  more_ema_decays: Mapping[str, Callable[[Array], Array]] | None = None,
  accumulate: int = 1,
  skip_nonfinite: bool = False,
) -> Callable[[TrainState, dict, Array], tuple[TrainState, dict]]:
  """(state, batch, key) -> (state, metrics): gradient, update, EMA.

  key is the same at every step (of the run's seed); the step's own is folded in
  from state.step, so a restored state continues exactly. more_ema_decays: for
  every name in state.more_ema_params. accumulate=n evaluates the batch in n
  parts, one after the other: the same step in less memory. skip_nonfinite:
  where loss or gradient are not finite, nothing changes but the step. To be
  jitted, with the state donated.
  """
  gradient = accumulated(objective, accumulate)

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state.step)
    (loss, (metrics, objective_state)), grads = gradient(
      state.params, state.objective_state, key, batch
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    def average(ema_params, decay):
      rate = 1.0 - decay(state.step)
      return optax.incremental_update(params, ema_params, rate)

    norm = optax.tree.norm(grads)
    metrics['grad_norm'] = Mean(norm, jnp.ones(()))
    after = TrainState(
      step=state.step + 1,
      params=params,
      ema_params=average(state.ema_params, ema_decay),
      opt_state=opt_state,
      objective_state=objective_state,
      more_ema_params={
        name: average(state.more_ema_params[name], decay)
        for name, decay in (more_ema_decays or {}).items()
      },
    )
    if skip_nonfinite:
      good = jnp.isfinite(loss) & jnp.isfinite(norm)
      kept = jax.tree.map(lambda x, y: jnp.where(good, x, y), after, state)
      after = kept._replace(step=after.step)
    return after, metrics

  return train_step


def accumulated(objective: Objective, parts: int) -> Callable:
  """jax.value_and_grad(objective), as the mean over `parts` of the batch.

  Noise and times are those of the whole batch, so the result does not depend on
  `parts` beyond rounding; only a network's own dropout is drawn per part.
  """
  gradient = jax.value_and_grad(objective, has_aux=True)
  if parts == 1:
    return gradient

  def mean_gradient(params, objective_state, key, batch):
    def one(index, objective_state):
      (loss, (metrics, objective_state)), grads = gradient(
        params, objective_state, key, batch, (index, parts)
      )
      return (loss, metrics, grads), objective_state

    def add(carry, index):
      total, objective_state = carry
      part, objective_state = one(index, objective_state)
      return (jax.tree.map(jnp.add, total, part), objective_state), None

    shapes, _ = jax.eval_shape(one, jnp.array(0), objective_state)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, objective_state), _ = jax.lax.scan(
      add, (zeros, objective_state), jnp.arange(parts)
    )
    loss, metrics, grads = total
    loss, grads = jax.tree.map(lambda x: x / parts, (loss, grads))
    return (loss, (metrics, objective_state)), grads

  return mean_gradient


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

"""Training and evaluation steps as pure functions."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.training.divisions import with_fixed_divisions
from diffusion_jax.training.fixed_parts import in_fixed_parts
from diffusion_jax.training.objectives import Context, Loss, Mean, Objective, at_the_end
from diffusion_jax.training.optimizer import global_norm
from diffusion_jax.training.state import TrainState

Array = jax.Array


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  ema_rate: Callable[[Array], Array],
  more_ema_rates: Mapping[str, Callable[[Array], Array]] | None = None,
  accumulate: int = 1,
  skip_nonfinite: bool = False,
  fixed_parts: int | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
  """Returns f(state, batch, key, frozen=(), rate=1.0) -> (state, metrics).

  One step is gradient, update, the objective's constraint and EMA. key is the
  same at every step; state.step is folded in, so that a restored state
  continues exactly. frozen: parameters for the objective's `Context`. rate: a
  factor of the updates; with an optimizer of rate 1 it is the learning rate,
  which may then change without another compilation. ema_rate:
  step -> 1 - decay, such as `optimizer.ema_decay(0.999)`; more_ema_rates: for
  each name in state.more_ema_params. accumulate=n evaluates the batch in n
  parts, which saves memory and gives the same step. skip_nonfinite: if loss or
  gradient are not finite, only the step changes. fixed_parts=n computes the
  gradient in n parts that are added in one order, so that the result is bit for
  bit the same on 1, 2, ..., n devices of a kind (`fixed_parts.in_fixed_parts`),
  on CPUs with equal numbers of threads (`start_up.fix_threads`).
  Jit it with a donated state.
  """
  if fixed_parts is None:
    gradient = accumulated(objective, accumulate)
  elif accumulate == 1:
    gradient = in_fixed_parts(objective, fixed_parts)
  else:
    raise ValueError(
      f'accumulate={accumulate} and fixed_parts={fixed_parts} both cut the batch: leave one out'
    )

  def train_step(state, batch, key, frozen=(), rate=1.0):
    key = jax.random.fold_in(key, state.step)
    context = context_of(state, frozen)
    (loss, (metrics, objective_state)), grads = gradient(state.params, context, key, batch)
    after, norm = update(state, loss, grads, objective_state, rate)
    return after, metrics | {'grad_norm': Mean(norm, jnp.ones(()))}

  def update(state, loss, grads, objective_state, rate):
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda x: rate * x, updates)
    params = objective.constrain(optax.apply_updates(state.params, updates))

    norm = global_norm(grads)
    after = TrainState(
      step=state.step + 1,
      params=params,
      ema_params=optax.incremental_update(params, state.ema_params, ema_rate(state.step)),
      opt_state=opt_state,
      objective_state=objective_state,
      more_ema_params={
        name: optax.incremental_update(params, state.more_ema_params[name], rate(state.step))
        for name, rate in (more_ema_rates or {}).items()
      },
    )
    if skip_nonfinite:
      good = jnp.isfinite(loss) & jnp.isfinite(norm)
      before = state._replace(step=after.step)
      after = jax.tree.map(lambda x, y: jnp.where(good, x, y), after, before)
    return after, norm

  if fixed_parts is not None:
    update = with_fixed_divisions(update)
  return train_step


def make_train_steps(
  train_step: Callable[..., tuple[TrainState, dict]],
) -> Callable[..., tuple[TrainState, dict]]:
  """Returns f(state, batches, key, count, frozen=(), rates=1) -> (state, ...).

  Makes one step with each of the first `count` batches of a tuple, in a loop on
  the device: one dispatch for several steps. rates: of each step,
  [len(batches)], or of all. Leaves of metrics are
  [len(batches)], with zeros after the first `count`. count may be traced; the
  result of a step does not depend on it, nor on the position in the loop. Jit
  it with a donated state.
  """
  step = jax.jit(train_step)  # one trace for the shapes and the loop

  def train_steps(state, batches, key, count, frozen=(), rates=1.0):
    stack = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    rates = jnp.broadcast_to(jnp.asarray(rates), len(batches))
    shapes = jax.eval_shape(step, state, batches[0], key, frozen, rates[0])[1]
    zeros = jax.tree.map(lambda x: jnp.zeros((len(batches), *x.shape), x.dtype), shapes)

    def body(i, carry):
      state, metrics = carry
      batch = jax.tree.map(lambda x: x[i], stack)
      state, of_step = step(state, batch, key, frozen, rates[i])
      return state, jax.tree.map(lambda x, y: x.at[i].set(y), metrics, of_step)

    return jax.lax.fori_loop(0, count, body, (state, zeros))

  return train_steps


def make_eval_step(objective: Objective) -> Callable[..., dict]:
  """Returns f(state, batch, key, frozen=()) -> metrics of the average.

  They depend on no other part of the state: see `objectives.at_the_end`.
  """

  def eval_step(state, batch, key, frozen=()):
    context = at_the_end(objective, state.ema_params, frozen)
    _, (metrics, _) = objective(state.ema_params, context, key, batch)
    return metrics

  return eval_step


def context_of(state: TrainState, frozen: Params = ()) -> Context:
  """Returns an objective's context at a state."""
  return Context(state.step, state.ema_params, frozen, state.objective_state)


def accumulated(objective: Objective, parts: int) -> Callable[..., tuple[Loss, Params]]:
  """Returns f(params, context, key, batch) -> ((loss, aux), gradient).

  aux: (metrics, state). Loss and gradient are means over `parts` of the batch.
  The objective draws for the whole batch, so that only rounding and the
  network's dropout depend on `parts`. Raises ValueError for parts > 1 if the
  objective is not separable.
  """
  if parts == 1:
    return jax.value_and_grad(objective.__call__, has_aux=True)
  if not objective.separable:
    raise ValueError(
      f'accumulate must be 1, got {parts}: this loss needs the whole batch, '
      'since it is not the mean over its parts'
    )
  gradient = jax.value_and_grad(objective.loss, has_aux=True)

  def mean_gradient(params, context, key, batch):
    inputs, keys = objective.draw(key, batch, context)

    def evaluate(index):
      part_keys = jax.tree.map(lambda k: jax.random.fold_in(k, index), keys)
      part = rows(inputs, index, parts)
      (loss, (metrics, records)), grads = gradient(params, context, part, part_keys)
      return (loss, metrics, grads), records

    def add(total, index):
      part, records = evaluate(index)
      return jax.tree.map(jnp.add, total, part), records

    shapes, _ = jax.eval_shape(evaluate, jnp.array(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, records = jax.lax.scan(add, zeros, jnp.arange(parts))
    loss, metrics, grads = total
    loss, grads = jax.tree.map(lambda x: x / parts, (loss, grads))
    state = objective.update(context.state, whole(records))
    return (loss, (metrics, state)), grads

  return mean_gradient


def rows(tree: PyTree, index: Array | int, parts: int) -> PyTree:
  """Returns rows index, index + parts, ... of every leaf [B, ...].

  They are interleaved, so that each device holds equally many rows of each
  part. Raises ValueError if `parts` does not divide B.
  """

  def take(x):
    if x.shape[0] % parts:
      raise ValueError(f'accumulate={parts} must divide the batch {x.shape[0]}')
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(x, index, axis=1, keepdims=False)

  return jax.tree.map(take, tree)


def whole(tree: PyTree) -> PyTree:
  """Joins leaves [parts, B / parts, ...] to [B, ...], the inverse of `rows`."""
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)

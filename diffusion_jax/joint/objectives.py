"""The loss of several variables: the sum of their losses, at clocks that are drawn."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.levels import NoiseLevel, clean_level, select_level
from diffusion_jax.declared import declares
from diffusion_jax.joint.network import JointNetwork
from diffusion_jax.joint.variables import draw_noised, known_elements
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import Probability, Size
from diffusion_jax.training.objectives import Mean, Objective, means

Array = jax.Array


class Clock(NamedTuple):
  """The times of a variable in a batch, and whether it has a loss there, [B] each.

  At t = 0 it is clean, as a condition; where it is held at noise, t = 1, it has no loss.
  """

  t: Array
  counts: Array


class Clocks(Protocol):
  """A distribution of the training levels of several variables."""

  def __call__(self, key: Key, batch_size: int, names: Sequence[str], /) -> dict[str, Clock]:
    """Draws the clock of each variable."""
    ...


@checked
def common_clock(key: Key, batch_size: Size, names: Sequence[str]) -> dict[str, Clock]:
  """Draws one time for all variables of an example, as in sampling; antithetic over a batch.

  With it the loss is a bound of -log p of all variables.
  """
  return dict.fromkeys(names, Clock(_times(key, batch_size), jnp.ones(batch_size, bool)))


@checked
def own_clocks(key: Key, batch_size: Size, names: Sequence[str]) -> dict[str, Clock]:
  """Draws independent times (UniDiffuser, Bao et al. 2023), for any path of levels."""

  def clock(key):
    time_key, order_key = jax.random.split(key)
    t = jax.random.permutation(order_key, _times(time_key, batch_size))
    return Clock(t, jnp.ones(batch_size, bool))

  return {name: clock(k) for name, k in zip(names, jax.random.split(key, len(names)), strict=True)}


def _times(key, size):
  return 1.0 - jnp.mod(jax.random.uniform(key) + jnp.arange(size) / size, 1.0)


@checked
def some_held(clocks: Clocks, probability: Probability = 0.5, noise: Probability = 0.0) -> Clocks:
  """Makes clocks where some variables are held, by which a network learns conditionals.

  With the probability, an example has a rate from U(0, 1) at which each variable is held:
  clean, as what is given, or at noise with the probability `noise`, as what is integrated
  out. Held variables have no loss. One variable of each example is never held.
  """

  def drawn(key, batch_size, names):
    clock_key, *keys = jax.random.split(key, 6)
    own = clocks(clock_key, batch_size, names)
    shape = batch_size, len(names)
    rate, some = (jax.random.uniform(k, (batch_size, 1)) for k in keys[:2])
    is_held, to_noise = (jax.random.uniform(k, shape) for k in keys[2:4])
    moves = jax.random.randint(keys[4], (batch_size, 1), 0, len(names))
    is_held = (is_held < rate) & (some < probability) & (moves != jnp.arange(len(names))[None])
    to_noise = to_noise < noise
    held_at = jnp.where(to_noise, 1.0, 0.0)
    return {
      name: Clock(
        jnp.where(is_held[:, i], held_at[:, i], own[name].t), own[name].counts & ~is_held[:, i]
      )
      for i, name in enumerate(names)
    }

  return drawn


class JointInputs(NamedTuple):
  """Holds the draws of a batch, of each variable [B, ...].

  counts: where a variable has a loss, of the shape of its level, [B] or [B, T].
  """

  x0: dict[str, Array]
  xt: dict[str, Array]
  noise: dict[str, PyTree]
  level: dict[str, NoiseLevel]
  counts: dict[str, Array]
  cond: dict


def arrays_of(batch: dict) -> dict:
  """Returns the arrays of a batch, in which each variable has one of its name."""
  return batch


@declares(what='the sum of the losses of several variables', estimates=False)
@checked
def denoising(
  network: JointNetwork,
  *,
  clocks: Clocks = common_clock,
  weights: Mapping[str, float] | None = None,
  arrays: Callable[[dict], Mapping[str, Array]] = arrays_of,
) -> Objective:
  """Makes the sum of weights[name] times the loss of each variable; weights are 1 by default.

  KL of a product of independent steps is a sum: with the losses of the bound (`vdm_weight`;
  states have them), weights of 1 and the common clock the mean loss is the diffusion part of
  a bound of -log p of all variables, in nats. NaN in numbers, and states below 0, are not
  known: such an element has no loss, and the network sees it at noise. arrays: batch -> {name:
  [B, ...]}. Metrics: loss, and loss_<name>, the mean where a variable has a loss. params:
  {'network': ...}.
  """
  variables, names = network.variables, sorted(network.variables)
  if unknown := {*(weights or {})} - {*names}:
    raise ValueError(f'weights are of {sorted(unknown)}, and the variables are {names}')

  def noised(key, name, x0, clock):
    variable = variables[name]
    known = known_elements(x0, variable.level_axes)
    x0 = jnp.where(expand_to(known, x0), x0, jnp.zeros((), x0.dtype))
    t, counts = (jnp.broadcast_to(expand_to(a, known), known.shape) for a in clock)
    level = select_level(t > 0.0, variable.schedule(t), clean_level())
    level = select_level(known, level, variable.schedule(1.0))
    xt, noise = draw_noised(variable, key, x0, level, known)
    return x0, xt, noise, level, counts & known

  def draw(key, batch, context):
    data = arrays(batch)
    if missing := {*names} - {*data}:
      raise ValueError(f'the batch has {sorted(data)}, but not the variables {sorted(missing)}')
    data = {name: jnp.asarray(data[name]) for name in names}
    first = data[names[0]]
    clock_key, cond_key, dropout_key, *keys = jax.random.split(key, 3 + len(names))
    times = placed_as(first, clocks(clock_key, len(first), names))
    drawn = [noised(k, n, data[n], times[n]) for n, k in zip(names, keys, strict=True)]
    by_field = zip(*drawn, strict=True)
    x0, xt, noise, level, counts = (dict(zip(names, field, strict=True)) for field in by_field)
    cond = network.condition(cond_key, batch)
    return JointInputs(x0, xt, noise, level, counts, cond), dropout_key

  def loss(params, context, inputs, key):
    outputs = network.outputs(params['network'], inputs.xt, inputs.level, inputs.cond, key)
    total, metrics = jnp.zeros(()), {}
    for name in names:
      losses, counts = _losses(variables[name], outputs[name], inputs, name), inputs.counts[name]
      total += (weights or {}).get(name, 1.0) * losses.reshape(len(losses), -1).sum(axis=1)
      metrics[f'loss_{name}'] = Mean(jnp.sum(losses), jnp.sum(counts, dtype=float))
    metrics |= means(loss=total)
    return metrics['loss'].total, (metrics, ())

  return Objective(draw, loss)


@declares(
  what='flow matching on geodesics of [directions](joint.md#variables) (Chen & Lipman 2023)',
  data='directions',
  estimates=False,
)
@checked
def geodesic_flow(network: JointNetwork) -> Objective:
  """Makes the loss of a network of one variable of `directions`, `denoising` on one clock."""
  return denoising(network)


def _losses(variable, output, inputs, name):
  # Returns the losses of what has a level of its own, 0 where it does not count.
  counts = inputs.counts[name]

  def as_rows(tree):
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[counts.ndim :]), tree)

  # Elsewhere the level may be clean, where a weight is infinite.
  level = as_rows(select_level(counts, inputs.level[name], variable.schedule(0.5)))
  x0, xt, noise = (as_rows(of[name]) for of in (inputs.x0, inputs.xt, inputs.noise))
  losses = variable.loss(as_rows(output), x0, xt, noise, level)
  return jnp.where(counts, losses.reshape(counts.shape), 0.0)

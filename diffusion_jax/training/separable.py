"""Whether an objective is what it says: on shapes, and by its losses of two examples."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import place_of, reason_of
from diffusion_jax.training.objectives import Context, Mean, Objective
from diffusion_jax.training.step import rows

# The largest difference by rounding, in float32 and in bfloat16, of a loss of 1.
_ROUNDING, _OF_HALVES = 1e-3, 3e-2


def check_objective(objective: Objective, params: Params, frozen: Params, batch: PyTree) -> None:
  """Raises ValueError unless an objective draws and computes what `Objective` says.

  It is traced for two rows; everything is given by its shapes, and nothing is computed.
  """
  two = {n: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) for n, x in batch.items()}

  def run(params, frozen, key, two):
    with _named('init()'):
      state = objective.init()
    context = Context(0, params, frozen, state)
    with _named('draw(key, batch, context)'):
      drawn = objective.draw(key, two, context)
    if kind_of(drawn) != 'a tuple of 2':
      raise ValueError(
        f'draw(key, batch, context) must return (inputs, keys), not {kind_of(drawn)}'
      )
    with _named('loss(params, context, inputs, keys)'):
      value = objective.loss(params, context, *drawn)
    _checked(value)
    with _named('update(state, records)'):
      after = objective.update(state, value[1][1])
    was, now = (
      jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), x) for x in (state, after)
    )
    if was != now:
      raise ValueError(
        f'update(state, records) must return a state as init() does, {kind_of(state)}, not '
        f'{kind_of(after)}'
      )

  jax.eval_shape(run, params, frozen, abstract_key(), two)


@contextlib.contextmanager
def _named(function):
  # Says in which function of an objective an error was raised.
  try:
    yield
  except Exception as error:
    if type(error).__name__ == 'ScopeParamNotFoundError':  # Flax's
      raise ValueError(
        f"{function}: the network gets other parameters than its own, params['network']"
        f'{place_of(error)}'
      ) from error
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    raise ValueError(f'{function}: {kind}{reason_of(error)}{place_of(error)}') from error


def without_layers(network: Network) -> Network:
  """Returns a network whose output has the same shapes, and compiles fast.

  Each row is a function of the same row of x and noise; the parameters have no effect.
  """
  shapes: dict[Any, PyTree] = {}

  @functools.wraps(network.apply)  # has `at` if the network has
  def apply(params, x, noise, cond, /, *, key=None, **more):
    place = x.shape[1:], *more.values()
    if place not in shapes:

      def called(params, x, noise, cond, key):
        return network.apply(params, x, noise, cond, key=key, **more)

      shapes[place] = jax.eval_shape(called, params, x, noise, cond, key)
    flat = (a.reshape(len(x), -1).astype(jnp.float32) for a in (x, noise))
    of_x, of_noise = (jnp.sin(a @ np.cos(np.arange(a.shape[1], dtype=np.float32))) for a in flat)
    number = of_x + of_noise

    def like(shape):
      size = math.prod(shape.shape[1:])
      values = number[:, None] * np.cos(np.arange(size, dtype=np.float32))[None]
      return values.reshape(len(x), *shape.shape[1:]).astype(shape.dtype)

    return jax.tree.map(like, shapes[place])

  return dataclasses.replace(network, apply=apply)


def check_separable(
  objective: Objective,
  params: Params,
  frozen: Params,
  batch: PyTree,
  unread: Collection[str] = (),
) -> None:
  """Raises ValueError unless the loss of two examples is the mean of its values at each.

  A loss of the whole batch, whose author has not said separable=False, would be another loss in
  the parts of `accumulated`. Everything is given by its shapes, for which random numbers are
  drawn, but zeros for `unread`, names of params; the two examples have equal conditions. A loss
  that itself draws random numbers is not compared. The objective should be that of a test,
  without dropout.
  """
  rng = np.random.default_rng(0)

  def numbers(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return np.zeros(x.shape, x.dtype)
    inputs = max(1, np.prod(x.shape[:-1]))  # of a kernel, which then keeps the size of x
    return (rng.standard_normal(x.shape) / np.sqrt(inputs)).astype(x.dtype)

  zeros = {name: params[name] for name in unread}
  drawn = {name: x for name, x in params.items() if name not in zeros}
  drawn, frozen = jax.tree.map(numbers, (drawn, frozen))
  two: dict[str, np.ndarray] = {n: np.zeros((2, *x.shape[1:]), x.dtype) for n, x in batch.items()}
  two['x'] = rng.standard_normal(two['x'].shape).astype(np.float32)

  def losses(drawn, frozen, key, batch):
    # Zeros are made here, so that unread ones take no memory.
    params = drawn | jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), zeros)
    context = Context(0, params, frozen, objective.init())
    inputs, keys = objective.draw(key, batch, context)
    other = jax.tree.map(lambda key: jax.random.fold_in(key, 1), keys)
    given = [(inputs, keys), (inputs, other), *((rows(inputs, i, 2), keys) for i in range(2))]
    return [_checked(objective.loss(params, context, *x)) for x in given]

  key = jax.random.key(0)
  program = jax.jit(losses).trace(drawn, frozen, key, two)
  rounding = _OF_HALVES if 'bf16' in str(program.jaxpr) else _ROUNDING
  found = np.asarray(program.lower().compile()(drawn, frozen, key, two), np.float64)
  whole, again, *each = found
  draws = whole != again
  is_mean = abs(whole - np.mean(each)) <= rounding * np.abs(found).max()
  if not (draws or is_mean or not np.isfinite(found).all()):
    raise ValueError(
      f'its loss is {whole:.4g} of two examples, and {np.mean(each):.4g} in the mean of each '
      'alone: it needs the whole batch, which Objective(..., separable=False) says'
    )


def _checked(value):
  # Returns the loss of what a loss returns.
  what = 'loss(params, context, inputs, keys) must return '
  if kind_of(value) != 'a tuple of 2' or kind_of(value[1]) != 'a tuple of 2':
    raise ValueError(f'{what}(loss [], (metrics, records)), not {_in_words(value)}')
  loss, (metrics, _) = value
  if kind_of(loss) != 'a number':
    raise ValueError(f'{what}a loss [], one number, and it is {kind_of(loss)}')
  if not isinstance(metrics, dict) or 'loss' not in metrics:
    names = ', '.join(map(str, metrics)) or 'none' if isinstance(metrics, dict) else ''
    raise ValueError(
      f"{what}metrics with 'loss', as objectives.means(loss=losses), "
      f'not {names or kind_of(metrics)}'
    )
  for name, mean in metrics.items():
    if not isinstance(mean, Mean) or {*map(kind_of, mean)} != {'a number'}:
      raise ValueError(
        f'{what}each metric as a Mean of numbers, as objectives.means({name}=...), not '
        f'{kind_of(mean)}'
      )
  return loss


def _in_words(value):
  if kind_of(value) != 'a tuple of 2':
    return kind_of(value)
  return f'({", ".join(map(kind_of, value))})'

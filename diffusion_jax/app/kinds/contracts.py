"""What a user's own part of each field must be, `module:attribute`, and what it must make.

A function of the time or of the level is called on shapes, and on two numbers: what it gives
for one of them must not depend on the other, since losses of rows are compared with a batch's.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import diffusion_jax as dj
from diffusion_jax.app.config.schema import Constructor, Contract, checked
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.levels import check_schedule
from diffusion_jax.core.parametrization import Kind, Parametrization
from diffusion_jax.data import simulated
from diffusion_jax.networks import functional
from diffusion_jax.ranges import check_value
from diffusion_jax.training.objectives import Objective

# -- constructors --------------------------------------------------------------


def _source(part: Any, facts: Collection[str], parameter: str = '') -> Constructor:
  if simulated.is_simulator(part):
    part = simulated.simulated(part)
  return checked(part, facts, parameter)


def _network(part: Any, facts: Collection[str]) -> Constructor:
  noisy = 'in_channels' in facts  # Autoencoders do not get it.
  modules = (linen.Module, nnx.Module) if noisy else (linen.Module,)
  if not (inspect.isclass(part) and issubclass(part, modules)):
    names = 'flax.linen.Module' + ' or flax.nnx.Module' * noisy
    raise ValueError(f'a subclass of {names} is needed')
  if noisy:
    try:
      inspect.signature(part.__call__).bind('self', 'x', 'noise', 'cond', train=True)
    except TypeError as error:
      raise ValueError(f'its __call__ must take (x, noise, cond, *, train): {error}') from error
  return functional.from_nnx(part) if issubclass(part, nnx.Module) else part


_TIMES = np.array([0.2, 0.7], np.float32)


def _check_alone(what, function, two):
  # Raises ValueError for a function of two levels or times that is another of each alone.
  def of(*rows):
    values = function(jax.tree.map(lambda x: jnp.broadcast_to(x, 2)[jnp.array(rows)], two))
    return [np.broadcast_to(x, len(rows)) for x in jax.tree.leaves(values)]

  for x, *each in zip(of(0, 1), of(0), of(1), strict=True):
    each = np.concatenate(each)
    if not np.allclose(x, each, rtol=1e-4, equal_nan=True):
      numbers = [', '.join(f'{float(number):.4g}' for number in both) for both in (x, each)]
      raise ValueError(
        f'{what} of one level must not depend on the others of a batch: of two levels it is '
        f'{numbers[0]}, and of each alone {numbers[1]}'
      )


# -- what they make: (what is needed, what it is, whether it fits) -------------


def _schedule(part):
  level = jax.eval_shape(part, 0.5)
  check_schedule(part)
  fits = isinstance(level, dj.NoiseLevel) and _shapes(level) == [()] * 3
  if fits:
    _check_alone('schedule(t)', part, _TIMES)
  return 'schedule(t) must be a dj.NoiseLevel of numbers', level, fits


def _noise_input(part):
  number = jax.eval_shape(part, dj.clean_level())
  fits = _is_array(number, ())
  if fits:
    _check_alone('noise_input(level)', part, dj.CosineSchedule()(_TIMES))
  return 'noise_input(level) must be a number', number, fits


def _weight(part):
  levels = dj.CosineSchedule()(_TIMES)
  weight = jax.eval_shape(part, levels)
  fits = _is_array(weight, (), (2,))
  if fits:
    _check_alone('weight(level)', part, levels)
  return 'weight(level) must be one number for each level', weight, fits


def _times(part):
  what = 'times(key, batch_size, schedule) must return (level, weight), [batch_size] each'
  with contextlib.suppress(AttributeError):  # It may need another schedule.
    times = jax.eval_shape(lambda key: part(key, 2, dj.CosineSchedule()), abstract_key())
    return what, times, kind_of(times) == 'a tuple of 2' and {*_shapes(times)} == {(2,)}
  return what, part, True


def _parametrization(part):
  fits = isinstance(part, Parametrization)
  if fits:
    check_value('parametrization', part.kind, Kind)
  what = "its constructor must return a Parametrization(kind), such as Parametrization('v')"
  return what, part, fits


def _optimizer(part):
  what = "its constructor must return optax's optimizer and a function, step -> learning rate"
  return what, part, isinstance(part, tuple) and [*map(callable, part)] == [False, True]


def _data(part):
  what = 'its constructor must return a source, such as ArraySource(x)'
  return what, part, hasattr(part, 'read') and hasattr(part, 'facts')


def _instance(cls: type, words: str) -> Callable:
  what = f'its constructor must return {words}'
  return lambda part: (what, part, isinstance(part, cls))


def _shapes(tree):
  return [x.shape for x in jax.tree.leaves(tree)]


def _is_array(value, *shapes):
  return isinstance(value, jax.ShapeDtypeStruct) and value.shape in shapes


CONTRACTS = {
  'network': Contract(_network),
  'schedule': Contract(made=_schedule),
  'noise_input': Contract(made=_noise_input),
  'parametrization': Contract(made=_parametrization),
  'objective': Contract(
    functools.partial(checked, parameter='network'),
    _instance(Objective, 'an Objective(draw, loss)'),
  ),
  'weight': Contract(made=_weight),
  'times': Contract(made=_times),
  'sampler': Contract(made=_instance(dj.Sampler, 'a dj.Sampler(init, step)')),
  'optimizer': Contract(made=_optimizer),
  'data': Contract(functools.partial(_source, parameter='split'), _data),
  'source': Contract(_source, _data),
  'target': Contract(_source, _data),
}

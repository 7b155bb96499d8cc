"""What a user's own part of each field must be, `module:attribute`, and what it must make.

What is made is tried once, on shapes, where its arguments do not depend on the data. A function
of the time or of the level is called on two numbers, too: what it gives for one of them must not
depend on the other, since losses of rows are compared with a batch's. What needs the shapes of the
data is tried where they are known: an objective by `app.train.setup.check_objective`, a sampler by
`app.run.drawing.check_plan`, a grid by `app.kinds.diffusion.model.levels_of`, a metric by
`app.evaluate.scorers.metrics_of`.
"""

import contextlib
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
from diffusion_jax.metrics.metric import ModelMetric, SampleMetric
from diffusion_jax.networks import functional
from diffusion_jax.ranges import check_value
from diffusion_jax.training.objectives import Objective

# -- constructors --------------------------------------------------------------


def _source(part: Any, facts: Collection[str], parameter: str) -> Constructor:
  if simulated.is_simulator(part):
    part = simulated.simulated(part)
  return checked(part, facts, parameter)


def _network(part: Any, facts: Collection[str], parameter: str) -> Constructor:
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


def _check_takes(call, function):
  # Raises ValueError unless a function can be called as `call` says, such as 'weight(level)'.
  if not callable(function):
    raise ValueError(f'{call} must be a function, not {kind_of(function)}')
  try:
    inspect.signature(function).bind(*call[call.index('(') + 1 : -1].split(', '))
  except TypeError as error:
    raise ValueError(f'it is called as {call}: {error}') from None


# -- what they make: (what it is, whether it fits) -----------------------------


def _schedule(part):
  _check_takes('schedule(t)', part)
  level = jax.eval_shape(part, 0.5)
  check_schedule(part)
  fits = isinstance(level, dj.NoiseLevel) and _shapes(level) == [()] * 3
  if fits:
    _check_alone('schedule(t)', part, _TIMES)
  return level, fits


def _noise_input(part):
  _check_takes('noise_input(level)', part)
  number = jax.eval_shape(part, dj.clean_level())
  fits = _is_array(number, ())
  if fits:
    _check_alone('noise_input(level)', part, dj.CosineSchedule()(_TIMES))
  return number, fits


def _weight(part):
  _check_takes('weight(level)', part)
  levels = dj.CosineSchedule()(_TIMES)
  weight = jax.eval_shape(part, levels)
  fits = _is_array(weight, (), (2,))
  if fits:
    _check_alone('weight(level)', part, levels)
  return weight, fits


def _times(part):
  _check_takes('times(key, batch_size, schedule)', part)
  with contextlib.suppress(AttributeError):  # It may need another schedule.
    times = jax.eval_shape(lambda key: part(key, 2, dj.CosineSchedule()), abstract_key())
    wrong = [x for x in jax.tree.leaves(times) if x.shape != (2,)]
    is_pair = kind_of(times) == 'a tuple of 2'
    return wrong[0] if is_pair and wrong else times, is_pair and not wrong
  return part, True


def _coupling(part):
  """Tries it on rows of numbers; what needs other data or a condition is tried with those."""
  _check_takes('coupling(key, x0, y, cond)', part)
  rows = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  try:
    index = jax.eval_shape(lambda key, x0, y: part(key, x0, y, {}), abstract_key(), rows, rows)
  except Exception:
    return part, True
  whole = isinstance(index, jax.ShapeDtypeStruct) and jnp.issubdtype(index.dtype, jnp.integer)
  return index, whole and index.shape == (2,)


def _grid(part):
  levels = getattr(part, 'levels', None)
  if levels is None:
    return part, False
  _check_takes('levels(schedule, end_clean)', levels)
  return part, True


def _guidance(part):
  if not (hasattr(part, 'scale') and hasattr(part, 'guide')):
    return part, False
  _check_takes('guide(pair, scale)', part.guide)
  denoise = part.guide(lambda xt, level: (dj.Prediction(xt), dj.Prediction(xt)), part.scale)
  return denoise, callable(denoise)


def _parametrization(part):
  fits = isinstance(part, Parametrization)
  if fits:
    check_value('parametrization', part.kind, Kind)
  return part, fits


def _optimizer(part):
  return part, isinstance(part, tuple) and [*map(callable, part)] == [False, True]


def _data(part):
  return part, hasattr(part, 'read') and hasattr(part, 'facts')


def _taking(call: str) -> Callable:
  def made(part):
    _check_takes(call, part)
    return part, True

  return made


def _instance(*classes: type) -> Callable:
  return lambda part: (part, isinstance(part, classes))


def _shapes(tree):
  return [x.shape for x in jax.tree.leaves(tree)]


def _is_array(value, *shapes):
  return isinstance(value, jax.ShapeDtypeStruct) and value.shape in shapes


_RETURNS = 'its constructor must return '
_SOURCE = _RETURNS + 'a source, such as ArraySource(x)'

# Parameters of loggers that the program passes, as `Schema.facts` has those of sections.
FACTS_OF_LOGGERS = 'workdir', 'start_step'

CONTRACTS = {
  'network': Contract(
    _network,
    part='a subclass of `flax.linen.Module` or `flax.nnx.Module`',
    makes='its __call__ must take (x, noise, cond, *, train)',
  ),
  'data': Contract(_source, _data, makes=_SOURCE, parameter='split'),
  'source': Contract(_source, _data, makes=_SOURCE),
  'target': Contract(_source, _data, makes=_SOURCE),
  'schedule': Contract(made=_schedule, makes='schedule(t) must be a dj.NoiseLevel of numbers'),
  'noise_input': Contract(made=_noise_input, makes='noise_input(level) must be a number'),
  'parametrization': Contract(
    made=_parametrization,
    makes=_RETURNS + "a Parametrization(kind), such as Parametrization('v')",
  ),
  'objective': Contract(
    made=_instance(Objective),
    makes=_RETURNS + 'an Objective(draw, loss)',
    parameter='network',
  ),
  'times': Contract(
    made=_times,
    makes='times(key, batch_size, schedule) must return (level, weight), [batch_size] each',
  ),
  'weight': Contract(made=_weight, makes='weight(level) must be one number for each level'),
  'coupling': Contract(
    made=_coupling,
    makes='coupling(key, x0, y, cond) must return i, whole numbers [B], so that x0[b] is paired '
    'with y[i[b]]',
  ),
  'levels': Contract(
    made=_taking('levels(key, shape, times, schedule)'),
    makes='levels(key, shape, times, schedule) must return (level, weight), [B, T] each',
  ),
  'pairs': Contract(
    made=_taking('pairs(key, batch_size, schedule, step)'),
    makes='pairs(key, batch_size, schedule, step) must return (level_t, level_r, weight), '
    '[batch_size] each',
  ),
  'distance': Contract(
    made=_taking('distance(a, b)'), makes='distance(a, b) must be one number for each example, [B]'
  ),
  'optimizer': Contract(
    made=_optimizer, makes=_RETURNS + "optax's optimizer and a function, step -> learning rate"
  ),
  'sampler': Contract(made=_instance(dj.Sampler), makes=_RETURNS + 'a dj.Sampler(init, step)'),
  'sampling.grid': Contract(
    made=_grid,
    makes=_RETURNS + 'an object with levels(schedule, end_clean), a dj.NoiseLevel [N + 1] from '
    'noise to data',
  ),
  'order': Contract(
    made=_taking('order(num_elements, num_steps)'),
    makes='order(num_elements, num_steps) must return the step at which each element starts',
  ),
  'sampling.guidance': Contract(
    made=_guidance,
    makes=_RETURNS + 'an object with scale and guide(pair, scale), a denoiser',
  ),
  'evaluation.metrics': Contract(
    made=_instance(SampleMetric, ModelMetric), makes=_RETURNS + 'a SampleMetric or a ModelMetric'
  ),
  'reward': Contract(
    part='a function of `x0`, [B, ...]', makes='it must return one number for each example, [B]'
  ),
  'log_to': Contract(makes=_RETURNS + 'a logger (docs/training.md)'),
}

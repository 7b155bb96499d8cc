"""A user's own parts, `module:attribute`: their import, and what they must be."""

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

import diffusion_jax as dj
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.levels import check_schedule
from diffusion_jax.core.parametrization import Kind, Parametrization
from diffusion_jax.data import simulated
from diffusion_jax.errors import UserError
from diffusion_jax.networks import functional
from diffusion_jax.ranges import check_value
from diffusion_jax.training.objectives import Objective

# What an import may raise.
_UNUSABLE = AttributeError, ImportError, SyntaxError, TypeError, ValueError
# A parameter that every constructor of a field must have.
NEEDS = {'data': 'split', 'objective': 'network'}


def find(path: str, name: str, facts: Collection[str]) -> Callable:
  """Imports and returns the constructor 'module:attribute' of a field.

  path: the field that names it; facts: the parameters that the program passes.
  Raises UserError before the import if the user did not name it, and after the
  import if it cannot be a constructor of this field.
  """
  trust.check_import(path, name)
  module, _, attribute = name.partition(':')
  if os.getcwd() not in sys.path:  # the folder of the user's module
    sys.path.insert(0, os.getcwd())
  try:
    part = getattr(importlib.import_module(module), attribute)
  except _UNUSABLE as error:
    where = f'config.{path}={name!r}'
    raise UserError(f'{where} cannot be imported: {error}') from error
  if path in ('data', 'data.source') and simulated.is_simulator(part):
    part = simulated.simulated(part)
  misfit = _misfit(path.rpartition('.')[2], part, facts)
  if misfit:
    raise UserError(f'config.{path}={name!r}: {misfit} (docs/program.md)')
  is_nnx = inspect.isclass(part) and issubclass(part, nnx.Module)
  return functional.from_nnx(part) if is_nnx else part


def _misfit(key, part, facts):
  """Returns why an object cannot be a constructor of a field, or ''."""
  if key == 'network':
    more = (nnx.Module,) if 'in_channels' in facts else ()  # not autoencoders
    if inspect.isclass(part) and issubclass(part, (linen.Module, *more)):
      return _call_misfit(part) if more else ''
    names = 'flax.linen.Module' + ' or flax.nnx.Module' * len(more)
    return f'a subclass of {names} is needed'
  kinds = types.FunctionType, type, functools.partial
  try:
    parameters = isinstance(part, kinds) and inspect.signature(part).parameters
  except (TypeError, ValueError):
    parameters = False
  if parameters is False:
    return 'a Python function or class is needed'
  needed = NEEDS.get(key)
  if needed and needed not in parameters:
    return f'its parameters must include {needed}'
  for p in parameters.values():
    optional = p.default is not p.empty or p.kind is p.VAR_KEYWORD
    if not optional and (p.kind is p.VAR_POSITIONAL or p.name not in facts):
      return f'its parameter {p.name} needs a default'
  return ''


def _call_misfit(network):
  args = 'self', 'x', 'noise', 'cond'
  try:
    inspect.signature(network.__call__).bind(*args, train=True)
  except TypeError as error:
    return f'its __call__ must take (x, noise, cond, *, train): {error}'
  return ''


def check_made(path: str, name: str, made: Any) -> None:
  """Raises UserError unless a user's constructor made what its field needs.

  A function of the time or the level is called once, on shapes.
  """
  field = path.rpartition('.')[2]
  with from_config(path):
    value = _value(field, made)
    needed, fits = _NEEDED.get(field, ('', lambda value: True))
    if fits(value):
      return
  what = f'{needed}, not {kind_of(value)}'
  raise UserError(f'config.{path}={name!r}: {what} (docs/program.md)')


def _value(field, made):
  """Returns what a function that was made returns, as shapes, or what was made."""
  match field:
    case 'schedule':
      level = jax.eval_shape(made, 0.5)
      check_schedule(made)
      return level
    case 'noise_input':
      return jax.eval_shape(made, dj.clean_level())
    case 'weight':
      return jax.eval_shape(made, dj.CosineSchedule()(np.array([0.2, 0.7])))
    case 'times':
      with contextlib.suppress(AttributeError):  # It may need another schedule.
        return jax.eval_shape(lambda key: made(key, 2, dj.CosineSchedule()), abstract_key())
      return _UNKNOWN
  return made


def _are_times(value):
  shapes = {x.shape for x in jax.tree.leaves(value)}
  return value is _UNKNOWN or kind_of(value) == 'a tuple of 2' and shapes == {(2,)}


def _is_level(value):
  return isinstance(value, dj.NoiseLevel) and [x.shape for x in jax.tree.leaves(value)] == [()] * 3


def _has_shape(*shapes):
  return lambda value: isinstance(value, jax.ShapeDtypeStruct) and value.shape in shapes


def _is_parametrization(value):
  if not isinstance(value, Parametrization):
    return False
  check_value('parametrization', value.kind, Kind)
  return True


def _is_optimizer(value):
  return isinstance(value, tuple) and [*map(callable, value)] == [False, True]


def _is_source(value):
  return hasattr(value, 'read') and hasattr(value, 'facts')


_UNKNOWN = object()
_SOURCE = 'its constructor must return a source, such as ArraySource(x)', _is_source
# What each field needs, in words, and whether a value is that.
_NEEDED: dict[str, tuple[str, Callable[[Any], bool]]] = {
  'schedule': ('schedule(t) must be a dj.NoiseLevel of numbers', _is_level),
  'noise_input': ('noise_input(level) must be a number', _has_shape(())),
  'weight': ('weight(level) must be one number for each level', _has_shape((), (2,))),
  'times': (
    'times(key, batch_size, schedule) must return (level, weight), [batch_size] each',
    _are_times,
  ),
  'sampler': (
    'its constructor must return a dj.Sampler(init, step)',
    lambda value: isinstance(value, dj.Sampler),
  ),
  'parametrization': (
    "its constructor must return a Parametrization(kind), such as Parametrization('v')",
    _is_parametrization,
  ),
  'objective': (
    'its constructor must return an Objective(draw, loss)',
    lambda value: isinstance(value, Objective),
  ),
  'optimizer': (
    "its constructor must return optax's optimizer and a function, step -> learning rate",
    _is_optimizer,
  ),
  'data': _SOURCE,
  'source': _SOURCE,
}


def place_of(error: BaseException) -> str:
  """Returns ' (<file>, line <n>)' where a user's part raised, or ''."""
  modules = (sys.modules.get(name) for name in trust.modules())
  files = {vars(module).get('__file__') for module in modules if module}
  frames = [x for x in traceback.extract_tb(error.__traceback__) if x.filename in files]
  return f' ({frames[-1].filename}, line {frames[-1].lineno})' if frames else ''

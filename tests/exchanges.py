"""Right calls of all public names, as tests/calls.py makes them, and their arguments exchanged.

What an argument may be is read from the signatures, not from `core/checked.py`.
"""

import dataclasses
import functools
import inspect
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, UnionType
from typing import (
  Annotated,
  Any,
  Literal,
  NamedTuple,
  Union,
  get_args,
  get_origin,
)
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

import diffusion_jax as dj
from tests import calls

PUBLIC = {
  name: value for name, value in vars(dj).items() if name[0] != '_' and not inspect.ismodule(value)
}
PROTOCOLS = {name for name, value in PUBLIC.items() if getattr(value, '_is_protocol', False)}
TUPLES = {name for name, value in PUBLIC.items() if hasattr(value, '_fields')}
TYPES = [PUBLIC[name] for name in TUPLES]
FUNCTIONS = {name for name, value in PUBLIC.items() if inspect.isfunction(value)}
# They open runs and make classes: only their wrong calls are made.
UNCALLED = {
  'open_run': {'workdir': 'runs/digits', 'allow': ()},
  'training_step': {'config': 'configs/digits.py', 'fields': {}},
  'pytree_dataclass': {'cls': dj.CosineSchedule},
}


def quickly(function, *args, **kwargs):
  """Returns function(*args, **kwargs), but ones for arrays, which are not computed."""
  results = []
  jax.eval_shape(lambda: results.append(function(*args, **kwargs)))
  objects = lambda x: dataclasses.is_dataclass(x) or isinstance(x, dj.NoiseLevel)
  if all(isinstance(x, Tracer) for x in jax.tree.leaves(results, is_leaf=objects)):
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), results[0])
  result = function(*args, **kwargs)
  return functools.partial(quickly, result) if inspect.isfunction(result) else result


def names_in(function):
  """Returns all names in the code of a function of tables, and of those that it holds."""
  if not inspect.isfunction(function) or function.__module__.startswith('diffusion_jax'):
    return {getattr(function, '__name__', '')}
  held = [cell.cell_contents for cell in function.__closure__ or ()]
  codes, names = [function.__code__], set()
  while codes:
    code = codes.pop()
    names |= {*code.co_names}
    codes += [x for x in code.co_consts if isinstance(x, CodeType)]
  return names.union(*map(names_in, (*held, *(function.__defaults__ or ()))))


@functools.cache
def right_calls():
  """Returns {name: {parameter: value}} of a right call of each public function and class."""
  found: dict[str, dict[str, Any]] = {}

  def recorded(name, function):
    def call(*args, **kwargs):
      given = inspect.signature(function).bind(*args, **kwargs).arguments
      if not any(isinstance(x, Tracer) for x in jax.tree.leaves(given)):
        found.setdefault(name, given)
      return quickly(function, *args, **kwargs)

    return functools.wraps(function)(call)

  with mock.patch.dict(vars(dj), {name: recorded(name, PUBLIC[name]) for name in FUNCTIONS}):
    tables = runpy.run_path(calls.__file__)
    rows = functools.partial(tables['batch_of'], ROWS)
    for call in [*tables['ROWS'].values(), *tables['WHOLE'].values()]:
      if isinstance(call, functools.partial) or names_in(call) & FUNCTIONS - found.keys():
        call(*[rows()] * (call in tables['ROWS'].values()))
  values = [x for given in found.values() for x in given.values()]
  values += [*tables['LEVELS'].values(), tables['NETWORK'], tables['STEPPED']]
  for name in PUBLIC.keys() - FUNCTIONS - PROTOCOLS:
    value = next((x for x in values if type(x) is PUBLIC[name]), None)
    if value is not None:
      found[name] = {x: getattr(value, x) for x in inspect.signature(PUBLIC[name]).parameters}
  return found | UNCALLED


class Exchange(NamedTuple):
  """A call with another value for one or two arguments."""

  name: str
  changed: dict[str, Any]

  @property
  def arguments(self):
    return right_calls()[self.name] | self.changed

  def __str__(self):
    listing = ', '.join(f'{name}={_shown(x)}' for name, x in self.changed.items())
    return f'{self.name}({listing})'


def _shown(value):
  if isinstance(value, (jax.Array, np.ndarray)):
    return f'{value.dtype}{[*value.shape]}'
  return getattr(value, '__name__', ' '.join(repr(value).split())[:40])


def call_of(name, arguments):
  """Calls a public name with the arguments of each kind of parameter."""
  function = PUBLIC[name]
  signature = inspect.signature(function)
  bound = signature.bind_partial()
  bound.arguments.update(arguments)
  return function(*bound.args, **bound.kwargs)


# -- kinds -------------------------------------------------------------------------------------


def kind_of(value):
  """Returns which kind of thing a value is; things of one kind cannot be told apart."""
  if isinstance(value, dj.NoiseLevel):
    return 'levels' if np.ndim(value.t) else 'level'
  if isinstance(value, (jax.Array, np.ndarray, np.generic)):
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
      return 'key'
    if np.ndim(value):
      return {'i': 'integers', 'U': 'texts'}.get(value.dtype.kind, 'array')
    return 'number'
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return 'number'
  if isinstance(value, type):
    return 'class'
  if hasattr(value, 'from_logsnr'):
    return 'schedule'
  if type(value) in (tuple, list):
    return 'list'
  return 'function' if callable(value) else type(value).__name__


def allows(hint, value):
  """Returns whether a type checker takes a value of this kind for a type."""
  origin, args, kind = get_origin(hint), get_args(hint), kind_of(value)
  if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, str):
    return True
  if origin is Annotated:  # of a number; or a type with more to it
    kinds = {int: ['number'], float: ['number'], ArrayLike: ['array', 'integers', 'list']}
    return kind in kinds.get(args[0], ())
  if origin in (Union, UnionType):
    return any(allows(x, value) for x in args)
  if hint in (jax.Array, np.ndarray):
    return kind in ('array', 'integers')
  if origin in (tuple, Sequence):
    return kind in ('array', 'integers', 'list')
  if origin is Literal:
    return kind == 'str'
  is_protocol = getattr(hint, '_is_protocol', False)
  if origin is Callable or is_protocol and '__call__' in vars(hint):
    return kind == 'function'
  if is_protocol:
    return all(hasattr(value, name) for name in vars(hint) if name[0] != '_')
  if hint in (int, float):
    return kind == 'number'
  return isinstance(hint, type) and isinstance(value, origin or hint)


ROWS = 6  # no other axis of tests/calls.py is as long
X, T = np.ones((2, 3), np.float32), dj.CosineSchedule()(np.float32(0.6))
OTHERS = (
  *(None, True, 'a', 0.5, [0.5], {}, X, X.astype(int), X.astype(str), jax.random.key(0), T),
  *(dj.ddim, dj.ddim(), dj.CosineSchedule, dj.CosineSchedule(), calls.NETWORK, Path('a')),
  *(dj.Normal(X, X), dj.masking_process(3), dj.Measurement(X, lambda x: x), calls.GRID),
)
NO_ARGUMENTS, FIVE = lambda: None, lambda a, b, c, d, e: None


def parameters_of(name):
  """Yields (parameter, value) of a right call, also of those that have their defaults."""
  given = right_calls()[name]
  for parameter in inspect.signature(PUBLIC[name]).parameters.values():
    if parameter.name in given or parameter.default is not parameter.empty:
      yield parameter, given.get(parameter.name, parameter.default)


def other_kinds():
  """Yields the calls with a thing of another kind, or a function of other arguments."""
  for name in sorted(right_calls().keys() - TUPLES):
    for parameter, value in parameters_of(name):
      for other in OTHERS:
        kinds = {kind_of(value), *['key'] * (parameter.name == 'key')}
        if kind_of(other) not in kinds and not allows(parameter.annotation, other):
          yield Exchange(name, {parameter.name: other})
      is_any = get_origin(parameter.annotation) is Annotated
      if kind_of(value) in ('function', 'schedule') and not is_any:
        yield Exchange(name, {parameter.name: NO_ARGUMENTS})
        yield Exchange(name, {parameter.name: FIVE})


def other_fields():
  """Yields calls with a thing of another kind as a field of a level, a sampler or a normal."""
  for name in sorted(FUNCTIONS & right_calls().keys()):
    for parameter, value in parameters_of(name):
      for field, own in value._asdict().items() if type(value) in TYPES else ():
        for other in OTHERS:
          if kind_of(other) not in (kind_of(own), *('number', 'array', 'integers')):
            yield Exchange(name, {parameter.name: value._replace(**{field: other})})


def is_number(parameter):
  hint = parameter.annotation
  return hint is not Any and not isinstance(hint, str) and allows(hint, 0.5)


def not_numbers():
  """Yields the calls with NaN for a Python number."""
  for name in sorted(right_calls().keys() - TUPLES):
    for parameter, _ in parameters_of(name):
      if is_number(parameter):
        yield Exchange(name, {parameter.name: float('nan')})


# The numbers that may be negative, and those that may not be above 1.
SIGNED = {
  *('start', 'end', 'low', 'high', 'logsnr_min', 'logsnr_max', 'mean', 'scale', 'parallel'),
  *('log_p', 'nats', 'log_scale', 'minimum', 'time_scale', 'weight', 'label'),
}
FRACTIONS = {
  *('eta', 'p', 'quantile', 'rescale', 'share', 'strength', 'threshold', 'fraction', 'max_beta'),
  *('t', 't_min', 't_max', 't_start', 't_from', 't_to', 'estimate_probability'),
}


def out_of_range():
  """Yields the calls with -1, and those with 1.5 for a share or a time."""
  for name in sorted(right_calls().keys() - TUPLES):
    for parameter, _ in parameters_of(name):
      if is_number(parameter) and parameter.name not in SIGNED:
        yield Exchange(name, {parameter.name: -1})
      if parameter.name in FRACTIONS and name != 'dpm_solver_pp_sde':  # 1: the SDE's own noise
        yield Exchange(name, {parameter.name: 1.5})


def swapped():
  """Yields the calls with two neighbours in each other's place, if their kinds differ.

  Levels s and t are of one kind, and have an order.
  """
  for name in sorted(right_calls()):
    given = [(p, x) for p, x in parameters_of(name) if p.name in right_calls()[name]]
    given = [(p, x) for p, x in given if p.kind is p.POSITIONAL_OR_KEYWORD]
    for (p, x), (q, y) in zip(given, given[1:], strict=False):
      alike = kind_of(x) == kind_of(y) and shape_of(x) == shape_of(y)
      if not alike or q.name == 'level_t':
        yield Exchange(name, {p.name: y, q.name: x})


def of_one_row():
  """Yields the calls with one row, or one column, of an argument that others have more of.

  With each comes the call with as many equal rows or columns, whose numbers it may have.
  """
  for name in sorted(right_calls().keys() - TUPLES):
    shapes = {p.name: shape_of(x) for p, x in parameters_of(name)}
    for parameter, value in parameters_of(name):
      shape = shapes[parameter.name]
      others = [x for other, x in shapes.items() if other != parameter.name]
      for axis in range(len(shape)):
        if shape[axis] > 1 and any(x[: axis + 1] == shape[: axis + 1] for x in others):
          few = jax.tree.map(lambda a, i=axis: jnp.take(a, np.array([0]), i), value)
          many = jax.tree.map(lambda a, i=axis, n=shape[axis]: jnp.repeat(a, n, i), few)
          yield tuple(Exchange(name, {parameter.name: x}) for x in (few, many))


def shape_of(value):
  """Returns the shape of an array, of keys or of levels; () for others."""
  value = value.t if isinstance(value, dj.NoiseLevel) else value
  return np.shape(value) if isinstance(value, (jax.Array, np.ndarray)) else ()

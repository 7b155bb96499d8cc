"""Imports a user's own parts, `module:name`, and decides which may be imported.

Importing a module runs its code. A config that is stored in a run or beside
weights may come from anybody, so a name that only such a config contains is not
imported. `command_line` and `programs` allow the names that the user has given.
"""

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from diffusion_jax.errors import UserError

_allowed: set[str] = set()


class Place(NamedTuple):
  """Describes what a field of a config accepts.

  what: the kind of object, for messages; needs: a parameter that every
  constructor of this kind has; given: parameters that the program passes, which
  need no default.
  """

  what: str
  needs: str = ''
  given: tuple[str, ...] = ()


_SCHEDULE = Place('schedule', given=('num_steps',))

# The fields that accept a part of a user's own.
PLACES = {
  'data.name': Place('data set', needs='split'),
  'schedule.name': _SCHEDULE,
  'sampling.schedule': _SCHEDULE,
  'network.name': Place('network'),  # a Flax module
  'objective.name': Place('objective', needs='network_fn'),
  'objective.times': Place('draw of times', given=('schedule_steps',)),
  'objective.weight': Place('weight'),
  'objective.pairs': Place('draw of pairs', given=('times', 'total_steps')),
  'objective.distance': Place('distance'),
  'conditioning.noise_input': Place('noise input', given=('num_steps',)),
  'sampling.sampler': Place('sampler', given=('schedule', 'variance')),
  'evaluation.decoder': Place('decoder', given=('num_levels',)),
}


def allow(names: Iterable[str]) -> None:
  """Allows this process to import these names, 'module:name'."""
  _allowed.update(name for name in names if ':' in name)


def allow_named(config: Any) -> None:
  """Allows the names in a config that the user has written.

  A config that configs/run.py has read from a run folder allows nothing.
  """
  if not config.get('stored_in'):
    allow(texts(config.to_dict()))


def texts(tree: Any) -> Iterator[str]:
  """Yields every string in nested dicts and tuples; 'a,b' is two strings."""
  if isinstance(tree, dict):
    tree = tuple(tree.values())
  if isinstance(tree, (tuple, list)):
    for value in tree:
      yield from texts(value)
  elif isinstance(tree, str):
    yield from tree.split(',')


def names_one(field: str, value: Any) -> bool:
  """Returns whether a value of a field is the name of a user's own part."""
  return field in PLACES and isinstance(value, str) and ':' in value


def find(field: str, name: str) -> Any:
  """Imports 'module:name' and returns a constructor that fits the field.

  Raises UserError, before the import, for a name that the user has not given;
  for a name that cannot be imported; and for an object that does not fit.
  """
  if name not in _allowed:
    raise UserError(
      f'config.{field}={name!r} would be imported, which runs its code, but '
      'only a stored config contains this name. If you trust it, add '
      f'--allow={name} to the command'
    )
  module, _, attribute = name.partition(':')
  if os.getcwd() not in sys.path:  # where the user's module is
    sys.path.insert(0, os.getcwd())
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (AttributeError, ImportError, SyntaxError, ValueError) as error:
    raise UserError(
      f'config.{field}={name!r} cannot be imported: {error}'
    ) from error
  place = PLACES[field]
  wrong = _misfit(field, place, found)
  if wrong:
    raise UserError(
      f'config.{field}={name!r} cannot make a {place.what}: {wrong} '
      '(docs/own_parts.md)'
    )
  return found


def place_of(error: BaseException) -> str:
  """Returns ' (<file>, line <n>)' where a user's own part raised, or ''."""
  modules = (sys.modules.get(name.partition(':')[0]) for name in _allowed)
  files = {getattr(module, '__file__', None) for module in modules}
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if frame.filename in files]
  return f' ({own[-1].filename}, line {own[-1].lineno})' if own else ''


def _misfit(field, place, found):
  # Returns why an object is no constructor for a place; '' if it is one.
  if field == 'network.name':
    from flax import linen

    is_module = inspect.isclass(found) and issubclass(found, linen.Module)
    return '' if is_module else 'a subclass of flax.linen.Module is needed'
  is_python = inspect.isfunction(found) or inspect.isclass(found)
  try:
    parameters = inspect.signature(found).parameters.values()
  except (TypeError, ValueError):
    is_python = False
  if not is_python and not isinstance(found, functools.partial):
    return 'a Python function or class is needed'
  if place.needs:
    known = place.needs in [p.name for p in parameters]
    return '' if known else f'its parameters need to include {place.needs}'
  for p in parameters:
    if p.kind is p.VAR_KEYWORD or p.default is not p.empty:
      continue
    if p.kind is p.VAR_POSITIONAL or p.name not in place.given:
      return f'its parameter {p.name} needs a default'
  return ''

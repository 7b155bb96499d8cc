"""Constructors, whose parameters are fields of a config, and the tables that name them."""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.declared import Use, use_in, without_use
from diffusion_jax.ranges import PLAIN

Constructor = Callable[..., Any]
Constructors = Mapping[str, Constructor]
EMPTY = inspect.Parameter.empty


def checked(part: Any, facts: Collection[str], parameter: str = '') -> Constructor:
  """Returns a user's own part if it can be a constructor; ValueError says why not.

  facts: the parameters that the program passes; parameter: one that it must have.
  """
  kinds = types.FunctionType, type, functools.partial
  try:
    taken = isinstance(part, kinds) and inspect.signature(part).parameters
  except (TypeError, ValueError):
    taken = False
  if taken is False:
    raise ValueError('a Python function or class is needed')
  if parameter and parameter not in taken:
    raise ValueError(f'its parameters must include {parameter}')
  for p in taken.values():
    optional = p.default is not p.empty or p.kind is p.VAR_KEYWORD
    if not optional and (p.kind is p.VAR_POSITIONAL or p.name not in facts):
      raise ValueError(f'its parameter {p.name} needs a default')
  return part


class Contract(NamedTuple):
  """What a user's own part must be where a field names it.

  constructor: (the part, the names of the facts, `parameter`) -> its constructor;
  ValueError says why it has none. made: what the constructor made -> (what it gives,
  whether it fits).
  part, makes: what the part is, and what it must make, in the words of errors and of
  docs/parts.md; parameter: one that the part must have.
  """

  constructor: Callable[[Any, Collection[str], str], Constructor] = checked
  made: Callable[[Any], tuple[object, bool]] = lambda part: (part, True)
  part: str = 'a function or class'
  makes: str = ''
  parameter: str = ''


ANY = Contract()


class Schema(NamedTuple):
  """Describes the sections of a config for one kind of model.

  kind: its name in messages. tables: the constructors of each field that is a
  choice, by name; the key is the field's name at the top, or the last two names
  of its path. choices: the choices at the top; those in `optional` may be None.
  parts: the constructors of parts, by path; '' has the fields that are in no
  section. facts: the names of the facts of each choice, which its inner choices
  have too. metrics: constructors of metrics, by name. common: by path,
  constructors whose parameters are fields of every choice. rules: what configs
  of this kind cannot be, a `kinds.rules.Row` each. aliases: short forms of fields, as
  (the section, its choice, the field) that they stand for. contracts: what a
  user's own part of a choice must be, by its path or the last name of it. own: what an objective
  of the user's declares that is of this kind (`Declared`), '' for nothing.
  """

  kind: str
  tables: Mapping[str, Constructors]
  choices: tuple[str, ...]
  optional: Collection[str]
  parts: Mapping[str, Constructor]
  facts: Mapping[str, Collection[str]]
  metrics: Constructors
  common: Constructors = MappingProxyType({})
  rules: tuple[Any, ...] = ()
  aliases: Mapping[str, tuple[str, str, str]] = MappingProxyType({})
  contracts: Mapping[str, Contract] = MappingProxyType({})
  own: str = ''

  def table(self, path: str) -> Constructors:
    """Returns the constructors of a choice; {} if the path is not a choice."""
    return self.tables.get('.'.join(path.split('.')[-2:]), {})

  def contract(self, path: str) -> Contract:
    """Returns what a user's own part of a choice must be."""
    return self.contracts.get(path) or self.contracts.get(path.rpartition('.')[2], ANY)


@functools.cache
def parameters(constructor: Constructor) -> Mapping[str, inspect.Parameter]:
  """Returns the parameters of a constructor, with evaluated annotations, without their uses.

  They do not include what functools.partial binds, nor the fields that every
  Flax module has.
  """
  return {
    name: parameter.replace(annotation=without_use(parameter.annotation))
    for name, parameter in _parameters(constructor).items()
  }


def uses(constructor: Constructor) -> Mapping[str, Use]:
  """Returns what the field of each parameter of a constructor is for."""
  return {name: use_in(x.annotation) for name, x in _parameters(constructor).items()}


@functools.cache  # an inspection takes milliseconds, and there are thousands
def _parameters(constructor):
  try:
    signature = inspect.signature(constructor, eval_str=True)
  except NameError:  # an annotation that only type checkers know
    signature = inspect.signature(constructor)
  partial = isinstance(constructor, functools.partial)
  bound = {*constructor.keywords} if partial else set()
  if 'parent' in signature.parameters:
    bound |= {'name', 'parent'}
  kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return {
    name: parameter
    for name, parameter in signature.parameters.items()
    if parameter.kind in kinds and name not in bound
  }


def default_of(parameter: inspect.Parameter) -> Any:
  """Returns the default of a parameter; of a type such as np.float32 its name."""
  default = parameter.default
  is_type = isinstance(default, type) and default is not EMPTY
  return np.dtype(default).name if is_type else default


def annotation_of(parameter: inspect.Parameter) -> Any:
  """Returns the annotation of a parameter, or else the type of its default."""
  annotation = parameter.annotation
  if annotation is not EMPTY and not isinstance(annotation, str):
    return annotation
  kind = type(default_of(parameter))
  return kind if kind in PLAIN else object


def name_of(table: Constructors, default: object) -> str:
  """Returns the name of a default in a table, or else the first name; '' of an empty table."""

  def called(function):
    return getattr(function, '__name__', function)  # a partial function has no name

  names = (name for name, x in table.items() if default and called(x) == called(default))
  return next(names, next(iter(table), ''))

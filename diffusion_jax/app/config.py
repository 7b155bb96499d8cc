"""Sections of a config are constructors.

A section holds a name and the parameters of the constructor with that name,
such as {'name': 'ddim', 'eta': 0.0}. `complete` fills in the defaults of the
signatures, `override` applies a flag, and `make` calls the constructors.

Two kinds of parameters are not fields: facts, which follow from the data or
other sections and which `make` reads from the attributes of an object, and
parameters that the enclosing choice has as well. A part is a section without a
name, since it has only one constructor.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from diffusion_jax.app import own_parts
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import Rule

Constructor = Callable[..., Any]
Table = Mapping[str, Constructor]


class Schema(NamedTuple):
  """Describes the sections of a config for one kind of model.

  kind: its name in messages. tables: the constructors of each field that is a
  choice, by name; the key is the field's name or its path. choices: the choices
  at the top; those in `optional` may be None. parts: the constructors of parts,
  by path; '' has the fields that are in no section. facts: the names of the
  facts of each choice, which its inner choices have too. metrics: constructors
  of metrics, by name.
  """

  kind: str
  tables: Mapping[str, Table]
  choices: tuple[str, ...]
  optional: Collection[str]
  parts: Mapping[str, Constructor]
  facts: Mapping[str, Collection[str]]
  metrics: Table

  def table(self, path: str) -> Table:
    """Returns the constructors of a choice; {} if the path is not a choice."""
    return self.tables.get(path) or self.tables.get(_last(path)) or {}

  def sections(self, path: str) -> set[str]:
    """Returns the names of the sections of a part besides its parameters."""
    parts = [part.rpartition('.') for part in self.parts if part]
    names = {name for above, _, name in parts if above == path}
    return names if path else {*names, *self.choices, 'facts'}


def at(config: Any, path: str) -> Any:
  """Returns a section or field of a config; None if it does not exist."""
  for name in path.split('.') if path else ():
    config = config.get(name) if isinstance(config, ConfigDict) else None
  return config


def _last(path):
  return path.rpartition('.')[2]


def below(path: str, name: str) -> str:
  """Returns the path of a field of a section."""
  return f'{path}.{name}' if path else name


# Messages.


@contextlib.contextmanager
def from_config(path: str) -> Iterator[None]:
  """Turns an error of a constructor into a UserError about config.path."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{path}: {_with_near(str(error))}') from error


def _with_near(message):
  # Adds the nearest name to the library's "... 'value' is not one of a, b".
  match = re.search(r"'([^']*)' is not one of (.*)", message)
  if not match:
    return message
  hint = near(match[1], re.findall(r'\w+', match[2]))
  return message.replace(' is not one of', f'{hint} is not one of', 1)


def near(value: object, names: Collection[str]) -> str:
  """Returns " (did you mean 'name'?)", or '' if no name is near."""
  match = difflib.get_close_matches(str(value), names, n=1, cutoff=0.65)
  return f' (did you mean {match[0]!r}?)' if match else ''


def check_one_of(names: Collection[object], path: str, value: object) -> None:
  """Raises UserError for a value that is not one of the names."""
  if value not in names:
    words = [*map(str, names)]
    raise UserError(
      f'config.{path}={value!r}{near(value, words)} is not one of '
      f'{", ".join(words)}'
    )


def check(fits: bool, path: str, value: object, text: str) -> None:
  """Raises UserError for a value that is not what `text` says."""
  if not fits:
    raise UserError(f'config.{path}={value!r} is not {text}')


def check_set(path: str, value: object, hint: str) -> None:
  """Raises UserError with a hint unless the field has a value."""
  if value is None or value == '':
    raise UserError(f'config.{path} is not set: {hint}')


def check_section(section: object, path: str) -> None:
  """Raises UserError for a value that is not a section."""
  is_section = isinstance(section, Mapping | ConfigDict)
  check(is_section, path, section, 'a section with fields')


def no_field(
  path: str,
  names: Collection[str],
  choice: str = '',
  everywhere: Collection[str] = (),
) -> UserError:
  """Returns the error about a field that does not exist.

  names: the fields of its section; choice: the name in its section; everywhere:
  the paths of all fields, to suggest one of them.
  """
  *parents, name = path.split('.')
  names = sorted({*names} - {'name' if choice else '', 'facts'})
  elsewhere = [other for other in everywhere if other.endswith(f'.{name}')]
  hint = near(name, names)
  if not hint and elsewhere:
    nearest = difflib.get_close_matches(path, elsewhere, n=2, cutoff=0.0)
    hint = f' (did you mean {" or ".join(map(repr, nearest))}?)'
  owner = '.'.join(['config', *parents]) if parents else 'the config'
  owner += choice and f'={choice}'
  others = f'; {owner} has {", ".join(names) or "none"}'
  return UserError(f'there is no field config.{path}{hint or others}')


# Constructors.


def find(
  table: Table, path: str, name: str, facts: Collection[str] = ()
) -> Constructor:
  """Returns table[name], or the constructor that 'module:attribute' names.

  facts: the names of the facts that `make` passes to it.
  """
  if ':' in str(name):
    return own_parts.find(path, name, facts)
  check_one_of(table, path, name)
  return table[name]


@functools.cache  # an inspection takes milliseconds, and there are thousands
def parameters(constructor: Constructor) -> Mapping[str, inspect.Parameter]:
  """Returns the parameters of a constructor, with evaluated annotations.

  They do not include what functools.partial binds, nor the fields that every
  Flax module has.
  """
  try:
    signature = inspect.signature(constructor, eval_str=True)
  except NameError:  # an annotation that only type checkers know
    signature = inspect.signature(constructor)
  bound = {*getattr(constructor, 'keywords', ())}
  if 'parent' in signature.parameters:
    bound |= {'name', 'parent'}
  kinds = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
  )
  return {
    name: parameter
    for name, parameter in signature.parameters.items()
    if parameter.kind in kinds and name not in bound
  }


# Completing.


def complete(config: ConfigDict, schema: Schema) -> ConfigDict:
  """Returns the config with every parameter of its sections, locked.

  Raises UserError for a field that does not exist and for a value of another
  type.
  """
  fields = config.to_dict()
  for key in schema.choices:
    fields[key] = _choice(fields, key, key, schema, key in schema.optional)
  for path, constructor in schema.parts.items():
    section = fields
    for name in path.split('.') if path else ():
      section = section.setdefault(name, {})
    _fill(section, constructor, path, schema, more=schema.sections(path))
  return ConfigDict(fields).lock()


def _choice(
  owner, key, path, schema, optional=False, default=None, facts=(), outer=()
):
  # Returns the complete section of a choice, which may be absent, None, a name
  # or a section.
  value = owner.get(key, None if optional else {})
  if value is None and optional:
    return None
  given = value if isinstance(value, dict) else {'name': value}
  table = schema.table(path)
  section = {'name': _named(table, default), **given}
  facts = schema.facts.get(key, facts)
  constructor = find(table, path, section['name'], facts)
  _fill(section, constructor, path, schema, facts, {*outer, 'name'}, {'name'})
  return section


def _named(table, default):
  # Returns the name of a default, or else the first name.
  name = getattr(default, '__name__', None)
  names = (n for n, c in table.items() if name == getattr(c, '__name__', ''))
  return next(names, next(iter(table)))


def _fill(section, constructor, path, schema, facts=(), outer=(), more=()):
  # Checks the parameters of a section, which may have `more` fields, and adds
  # missing ones.
  every = parameters(constructor)
  hidden, unset = {*facts, *outer}, (None, inspect.Parameter.empty)
  fields = {
    name: parameter
    for name, parameter in every.items()
    if name not in hidden
    and (schema.table(below(path, name)) or _is_plain(parameter.default))
  }
  check_section(section, path)
  for name in sorted({*section} - {*fields, *more}):
    choice = section['name'] if 'name' in more else ''
    raise no_field(below(path, name), {*fields, *more}, choice)
  for name, parameter in fields.items():
    where, default = below(path, name), parameter.default
    if schema.table(where):
      optional = default is None
      shared = () if path in schema.parts else every
      section[name] = _choice(
        section, name, where, schema, optional, default, facts, shared
      )
    else:
      kind = _annotation(parameter)
      value = section[name] if name in section else _plain(default)
      if default in unset and value in unset:
        section[name] = placeholder(_kind(kind))
      else:
        section[name] = typed(value, kind, where)


def _is_plain(default):
  # Returns whether a config can hold a default, or there is no default.
  if default is inspect.Parameter.empty or default is None:
    return True
  return isinstance(_plain(default), (*_TYPES,))


def _plain(value):
  # Returns the name of a type such as np.float32, and other values unchanged.
  is_type = isinstance(value, type) and value is not inspect.Parameter.empty
  return np.dtype(value).name if is_type else value


# Types.

_TYPES = {
  bool: 'True or False',
  int: 'an integer',
  float: 'a number',
  str: 'a word',
  tuple: 'a list such as 1,2',
}
_UNIONS = typing.Union, types.UnionType
_LISTS = tuple, list, Sequence


def _annotation(parameter):
  # Returns the annotation of a parameter, or else the type of its default.
  annotated = parameter.annotation is not parameter.empty
  if annotated and not isinstance(parameter.annotation, str):
    return parameter.annotation
  kind = type(_plain(parameter.default))
  return kind if kind in _TYPES else object


def _kind(annotation):
  # Returns the plain type of an annotation; object if it has no plain type.
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in _UNIONS:
    return next((k for k in map(_kind, args) if k is not object), object)
  if origin is Annotated:
    return _kind(args[0])
  if origin is Literal:
    return type(args[0])
  if origin in _LISTS or annotation in _LISTS:
    return tuple
  return annotation if annotation in _TYPES else object


def words_of(annotation: object) -> tuple[object, ...]:
  """Returns the words of a Literal, which may be part of a union."""
  for kind in (annotation, *typing.get_args(annotation)):
    if typing.get_origin(kind) is Literal:
      return typing.get_args(kind)
  return ()


def typed(value: Any, annotation: object, path: str) -> Any:
  """Returns the value of a field, converted to its type.

  Raises UserError for a value of another type, for a word that is not in the
  Literal, and for a value that breaks a `Rule`.
  """
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in _UNIONS:
    # A word must be in the Literal, if the union has one.
    words = [x for x in args if typing.get_origin(x) is Literal]
    kinds = words if words and isinstance(value, str) else args
    kinds = [x for x in kinds if _kind(x) is not object]
    fitting = [x for x in kinds if isinstance(value, _kind(x))]
    return typed(value, [*fitting, *kinds, object][0], path)
  if origin is Annotated:
    value = typed(value, args[0], path)
    for rule in (x for x in args if isinstance(x, Rule)):
      check(rule.holds(value), path, value, rule.text)
    return value
  kind = _kind(annotation)
  if kind is float and type(value) is int:
    value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  is_bool = isinstance(value, bool | np.bool)
  fits = isinstance(value, kind) and (not is_bool or kind in (bool, object))
  fits = fits and not (kind is float and math.isnan(value))
  check(fits, path, value, _TYPES.get(kind, ''))
  if origin is Literal:
    check_one_of(args, path, value)
  if origin in _LISTS:
    value = _elements(value, origin, args, path)
  return value


def _elements(value, origin, args, path):
  # Checks the elements of a list; a list of words may contain numbers.
  if origin is tuple and args[-1] is not ...:
    check(len(value) == len(args), path, value, f'a list of {len(args)}')
  else:
    args = args[:1] * len(value)
  if args and _kind(args[0]) is str:
    value = tuple(map(str, value))
  for i, (element, kind) in enumerate(zip(value, args, strict=True)):
    typed(element, kind, f'{path}[{i}]')
  return value


# Flags.


def override(config: ConfigDict, path: str, text: str, schema: Schema) -> None:
  """Sets the field `path` of a complete config to the text of a flag, in place.

  A choice becomes a section with only the new name; `complete` adds the rest.
  Raises UserError for a field that does not exist and for a value of another
  type.
  """
  path = choice_of(path, schema)
  names, owner, node = path.split('.'), config, config
  for i, name in enumerate(names):
    owner, fields = node, node if isinstance(node, ConfigDict) else ()
    if name not in fields or names[0] == 'facts':
      above = '.'.join(names[:i])
      choice = at(config, f'{above}.name') if schema.table(above) else ''
      everywhere = [*fields_of(config)]
      raise no_field(below(above, name), fields, choice or '', everywhere)
    node = node[name]
  with owner.unlocked(), owner.ignore_type():
    if schema.table(path):
      if text in ('', 'None'):
        owner[name] = None
      elif node is None or node.name != text:
        owner[name] = ConfigDict({'name': text})
    elif isinstance(node, ConfigDict):
      raise UserError(f'config.{path} is a section: set one of its fields')
    else:
      owner[name] = parse(path, text, owner.get_type(name))


def choice_of(path: str, schema: Schema) -> str:
  """Returns the path of a choice for `<choice>.name`, others unchanged."""
  owner = path.removesuffix('.name')
  return owner if schema.table(owner) else path


def fields_of(config: ConfigDict, prefix: str = '') -> Iterator[str]:
  """Yields the paths of the fields of a config, those at the top first."""
  for name in config:
    yield prefix + name
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from fields_of(value, f'{prefix}{name}.')


def parse(path: str, text: str, kind: type) -> object:
  """Converts the text of a flag to a type."""
  if text == 'None':
    return None
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind in (int, float):
      return kind(text)
    if kind is tuple:
      return tuple(map(_literal, filter(None, text.strip('()[]').split(','))))
  except (KeyError, ValueError):
    raise UserError(f'config.{path}={text!r} is not {_TYPES[kind]}') from None
  return text if kind is str else _literal(text)


def _literal(text):
  try:
    return ast.literal_eval(text.strip())
  except (SyntaxError, ValueError):
    return text.strip()


# Making.


def make(
  schema: Schema,
  path: str,
  section: ConfigDict,
  facts: Mapping[str, object] | None = None,
) -> Any:
  """Makes the object that the complete section of a choice or part describes.

  facts: values of schema.facts; None stands for the parameter's default.
  Without facts, the inner choices that need some stay sections. Raises
  UserError if a constructor refuses its arguments.
  """
  return _make(schema, path, section, facts or {}, (), {})


def _make(schema, path, section, facts, names, outer):
  names, part = schema.facts.get(_last(path), names), schema.parts.get(path)
  constructor = part or find(schema.table(path), path, section.name, names)
  fields = {n: x for n, x in section.items() if part or n != 'name'}
  around = {} if part else {**outer, **fields}
  needing = {name for name, needed in schema.facts.items() if needed}
  values = {}
  for name, parameter in parameters(constructor).items():
    value = fields.get(name)
    if name in names:
      value = facts.get(name)
    elif name in outer:
      value = outer[name]
    elif isinstance(value, ConfigDict) and (facts or name not in needing):
      value = _make(schema, f'{path}.{name}', value, facts, names, around)
    elif name in own_parts.PATHS and value != parameter.default:
      own_parts.check_paths(f'{path}.{name}', value)
    if value is not None:
      values[name] = value
    elif parameter.default is parameter.empty:
      raise UserError(
        f'config.{path}={section.name}: the other sections do not give the '
        f'{name} that it needs'
        if name in names
        else f'config.{path}.{name} is not set: {section.name} needs it'
      )
  with from_config(path):
    return constructor(**values)

"""Sections of a config are constructors.

A section holds a name and the parameters of the constructor with that name,
such as {'name': 'ddim', 'eta': 0.0}. `complete` fills in the defaults of the
signatures, `override` applies a flag, and `make` calls the constructors.

Two kinds of parameters are not fields: facts, which follow from the data or
other sections and which `make` reads from the attributes of an object, and
parameters that the enclosing choice has as well.
"""

import ast
import contextlib
import copy
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
  at the top; those in `optional` may be None. parts: sections with a single
  constructor, by path. facts: the names of the facts of each choice, which its
  inner choices have too. metrics: constructors of metrics, by name.
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


def _last(path):
  return path.rpartition('.')[2]


def at(config: Any, path: str) -> Any:
  """Returns a section or field of a config; None within a part that is None."""
  for name in path.split('.') if path else ():
    config = None if config is None else config.get(name)
  return config


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


def near(value: Any, names: Collection[str]) -> str:
  """Returns " (did you mean 'name'?)", or '' if no name is near."""
  match = difflib.get_close_matches(str(value), names, n=1, cutoff=0.65)
  return f' (did you mean {match[0]!r}?)' if match else ''


def check_one_of(names: Collection[Any], path: str, value: Any) -> None:
  """Raises UserError for a value that is not one of the names."""
  if value not in names:
    words = [*map(str, names)]
    raise UserError(
      f'config.{path}={value!r}{near(value, words)} is not one of '
      f'{", ".join(words)}'
    )


def check_set(path: str, value: object, hint: str) -> None:
  """Raises UserError with a hint unless the field has a value."""
  if value is None or value == '':
    raise UserError(f'config.{path} is not set: {hint}')


def _check_section(section, path):
  if not isinstance(section, Mapping | ConfigDict):
    raise UserError(f'config.{path}={section!r} is not a section with fields')


def _check_names(section, names, path):
  _check_section(section, path)
  for name in section:
    if name not in names:
      raise no_field(f'{path}.{name}'.lstrip('.'), names, section=section)


def no_field(
  path: str,
  names: Collection[str],
  everywhere: Collection[str] = (),
  section: Any = None,
) -> UserError:
  """Returns the error about a field that does not exist.

  names: the fields of its section; everywhere: the paths of all fields, to
  suggest one of them; section: the content of its section.
  """
  *parents, name = path.split('.')
  names = sorted({*names} - {'name', 'facts'})
  elsewhere = [other for other in everywhere if other.endswith(f'.{name}')]
  hint = near(name, names)
  if not hint and elsewhere:
    nearest = difflib.get_close_matches(path, elsewhere, n=2, cutoff=0.0)
    hint = f' (did you mean {" or ".join(map(repr, nearest))}?)'
  owner = '.'.join(['config', *parents]) if parents else 'the config'
  if isinstance(section, Mapping | ConfigDict) and section.get('name'):
    owner += f'={section["name"]}'
  others = f'; {owner} has {", ".join(names) or "none"}'
  return UserError(f'there is no field config.{path}{hint or others}')


# Constructors.


def find(
  table: Table, path: str, name: Any, facts: Collection[str] = ()
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
  bound = {'name', 'parent'}
  if isinstance(constructor, functools.partial):
    bound |= set(constructor.keywords)
  try:
    signature = inspect.signature(constructor, eval_str=True)
  except NameError:  # an annotation that only type checkers know
    signature = inspect.signature(constructor)
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


def complete(
  config: ConfigDict, schema: Schema, base: ConfigDict, rules: Mapping[Any, Any]
) -> ConfigDict:
  """Returns the config with every parameter of its sections, locked.

  base: the plain fields; rules: the types that `typed` checks, by the path of a
  plain field or by its type. Raises UserError for a field that does not exist
  and for a value of another type.
  """
  config = copy.deepcopy(config)
  tops = {path.partition('.')[0] for path in schema.parts}
  with config.unlocked(), config.ignore_type():
    _check_names(config, {*schema.choices, *base, *tops, 'facts'}, '')
    for key in schema.choices:
      optional = key in schema.optional
      config[key] = _choice(config, key, key, schema, optional)
    for key, plain in base.items():
      if isinstance(plain, ConfigDict):
        config[key] = config.get(key, ConfigDict())
        _check_section(config[key], key)
        inner = {_last(p) for p in schema.parts if p.startswith(f'{key}.')}
        if key not in schema.parts:
          _check_names(config[key], {*plain, *inner}, key)
    _fill_plain(config, base, '', rules)
    for path, constructor in schema.parts.items():
      above, _, key = path.rpartition('.')
      owner = at(config, above)
      owner[key] = owner.get(key, ConfigDict())
      plain = base.get(path, ())
      _fill(owner[key], constructor, path, schema, plain=plain)
  return config.lock()


def _fill_plain(section, base, prefix, rules):
  # Checks the plain fields of a section, and adds missing ones.
  for name, default in base.items():
    kind, path = base.get_type(name), prefix + name
    value = section.get(name, default)
    if isinstance(default, ConfigDict):
      _fill_plain(value, default, f'{path}.', rules)
    elif value is None and default is None:
      section[name] = placeholder(kind)
    else:
      section[name] = typed(value, rules.get(path, rules.get(kind, kind)), path)


def _choice(
  owner, key, path, schema, optional=False, default=None, facts=(), outer=()
):
  # Returns the complete section of a choice, which may be absent, None, a name
  # or a section.
  value = owner.get(key, None if optional else ConfigDict())
  if value is None and optional:
    return None
  given = value if isinstance(value, ConfigDict) else {'name': value}
  table = schema.table(path)
  section = {'name': _named(table, default), **given}
  facts = schema.facts.get(key, facts)
  constructor = find(table, path, section['name'], facts)
  _fill(section, constructor, path, schema, facts, outer)
  return ConfigDict(section)


def _named(table, default):
  # Returns the name of a default, or else the first name.
  name = getattr(default, '__name__', None)
  names = (n for n, c in table.items() if name == getattr(c, '__name__', ''))
  return next(names, next(iter(table)))


def _fill(section, constructor, path, schema, facts=(), outer=(), plain=()):
  # Checks the parameters of a section, and adds missing ones.
  every = parameters(constructor)
  hidden, unset = {*facts, *outer}, (None, inspect.Parameter.empty)
  fields = {
    name: parameter
    for name, parameter in every.items()
    if name not in hidden
    and (schema.table(f'{path}.{name}') or _is_plain(parameter.default))
  }
  _check_names(section, {*fields, *plain, 'name'}, path)
  for name, parameter in fields.items():
    where, default = f'{path}.{name}', parameter.default
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


def words_of(annotation: Any) -> tuple[Any, ...]:
  """Returns the words of a Literal, which may be part of a union."""
  for kind in (annotation, *typing.get_args(annotation)):
    if typing.get_origin(kind) is Literal:
      return typing.get_args(kind)
  return ()


def typed(value: Any, annotation: Any, path: str) -> Any:
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
    for rule in args[1:]:
      if isinstance(rule, Rule) and not rule.holds(value):
        raise UserError(f'config.{path}={value!r} is not {rule.text}')
    return value
  kind = _kind(annotation)
  if kind is float and type(value) is int:
    value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  is_bool = isinstance(value, bool | np.bool)
  if not isinstance(value, kind) or is_bool and kind not in (bool, object):
    raise UserError(f'config.{path}={value!r} is not {_TYPES[kind]}')
  if kind is float and math.isnan(value):
    raise UserError(f'config.{path}=nan is not a number')
  if origin is Literal:
    check_one_of(args, path, value)
  if origin in _LISTS:
    value = _elements(value, origin, args, path)
  return value


def _elements(value, origin, args, path):
  # Checks the elements of a list; a list of words may contain numbers.
  if origin is tuple and args[-1] is not ...:
    if len(value) != len(args):
      raise UserError(f'config.{path}={value} is not a list of {len(args)}')
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
      everywhere = [*fields_of(config)]
      raise no_field('.'.join(names[: i + 1]), fields, everywhere, node)
    node = node[name]
  with config.unlocked(), config.ignore_type():
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


def parse(path: str, text: str, kind: type) -> Any:
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
  key: str,
  section: ConfigDict,
  facts: Any = None,
  path: str = '',
) -> Any:
  """Makes the object that the complete section of a choice describes.

  key: the field of the choice; facts: an object with the attributes
  schema.facts[key]; None stands for the parameter's default. Raises UserError
  if a constructor refuses its arguments.
  """
  return _make(schema, key, section, path or key, facts, (), {})


def _make(schema, key, section, path, facts, names, outer):
  names = schema.facts.get(key, names)
  constructor = find(schema.table(path), path, section.name, names)
  values = {}
  for name, parameter in parameters(constructor).items():
    value = section.get(name)
    if name in names:
      value = getattr(facts, name)
    elif name in outer:
      value = outer[name]
    elif isinstance(value, ConfigDict):
      where, around = f'{path}.{name}', {**outer, **section}
      value = _make(schema, name, value, where, facts, names, around)
    if value is not None:
      values[name] = value
    elif name in names and parameter.default is parameter.empty:
      raise UserError(
        f'config.{path}={section.name}: the other sections do not give the '
        f'{name} that it needs'
      )
    elif parameter.default is parameter.empty:
      raise UserError(
        f'config.{path}.{name} is not set: {section.name} needs it'
      )
  with from_config(path):
    return constructor(**values)


def make_part(schema: Schema, path: str, config: ConfigDict) -> Any:
  """Makes the object of a section with a single constructor.

  Inner choices are made too, except those that need facts, which stay sections.
  """
  section = at(config, path)
  constructor = schema.parts[path]
  values = {}
  for name in parameters(constructor):
    value = section[name]
    if isinstance(value, ConfigDict) and not schema.facts.get(name):
      value = make(schema, name, value, path=f'{path}.{name}')
    values[name] = value
  with from_config(path):
    return constructor(**values)

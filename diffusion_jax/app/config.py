"""Sections of a config are constructors.

A section holds a name and the parameters of the constructor with that name,
such as {'name': 'ddim', 'eta': 0.0}. `complete` fills in the defaults of the
signatures, `override` applies a flag, and `make` calls the constructors.

Two kinds of parameters are no fields: facts, which follow from the data or from
other sections and which `make` reads from the attributes of an object; and
parameters that the section around a choice has as well.
"""

import ast
import contextlib
import copy
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from diffusion_jax.app import own_parts
from diffusion_jax.errors import UserError

Constructor = Callable[..., Any]
Table = Mapping[str, Constructor]


class Schema(NamedTuple):
  """Describes the sections of a config for one kind of model.

  kind: its name in messages. tables: for each field that is a choice, wherever
  it stands or at a path, the constructors by name. choices: the fields at the top that are; those in `optional` may be
  None. parts: sections with a single constructor, by path. facts: the names of
  facts in the sections of a choice, which hold for the choices within as well.
  metrics: those of real images, by name.
  """

  kind: str
  tables: Mapping[str, Table]
  choices: tuple[str, ...]
  optional: Collection[str]
  parts: Mapping[str, Constructor]
  facts: Mapping[str, Collection[str]]
  metrics: Table

  def table(self, path: str) -> Table:
    """Returns the constructors of the choice at a path; {} if it is none."""
    return table_at(self.tables, path)


def table_at(tables: Mapping[str, Table], path: str) -> Table:
  """Returns the table of a path, or of its last part; {} if there is none."""
  return tables.get(path) or tables.get(path.rpartition('.')[2]) or {}


@contextlib.contextmanager
def from_config(path: str) -> Iterator[None]:
  """Turns an error about what `path` of the config gave into a UserError."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{path}: {_with_near(str(error))}') from error


def _with_near(message):
  # Adds the nearest name to "... 'value' is not one of a, b" of the library.
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
    raise UserError(
      f'config.{path}={value!r}{near(value, list(map(str, names)))} is not one '
      f'of {", ".join(map(str, names))}'
    )


def find(
  table: Table, path: str, name: Any, facts: Collection[str] = ()
) -> Constructor:
  """Returns table[name], or the constructor that 'module:attribute' names.

  facts: what `make` gives to the constructors of this place.
  """
  if ':' in str(name):
    return own_parts.find(path, name, facts)
  check_one_of(table, path, name)
  return table[name]


def parameters(constructor: Constructor) -> dict[str, inspect.Parameter]:
  """Returns the parameters of a constructor, with evaluated annotations.

  Keywords that functools.partial binds are left out, and the fields that every
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


def complete(config: ConfigDict, schema: Schema, base: ConfigDict) -> ConfigDict:
  """Returns the config with every parameter of its sections, locked.

  base: the plain fields. Raises UserError for a field that does not exist and
  for a value of another type.
  """
  config = copy.deepcopy(config)
  tops = {*schema.choices, *base, *(path.partition('.')[0] for path in schema.parts)}
  with config.unlocked(), config.ignore_type():
    _check_names(config, {*tops, 'facts'}, '')
    for key in schema.choices:
      default = None if key in schema.optional else ConfigDict()
      config[key] = _choice(config.get(key, default), key, key, schema)
    for key, plain in base.items():
      if isinstance(plain, ConfigDict):
        inner = {p.partition('.')[2] for p in schema.parts if p.startswith(key)}
        if key in schema.parts:
          _fill_part(config, key, schema, plain)
        else:
          _check_names(config[key], {*plain, *inner}, key)
    for path in schema.parts:
      if path not in base:
        _fill_part(config, path, schema)
  return config.lock()


def _fill_part(config, path, schema, plain=()):
  *parents, key = path.split('.')
  node = functools.reduce(lambda node, name: node[name], parents, config)
  if key not in node:
    node[key] = ConfigDict()
  _fill(node[key], schema.parts[path], path, schema, plain=plain)


def _choice(value, key, path, schema, facts=(), outer=()):
  # Returns the complete section of a choice; value: None, a name, or a section.
  if value is None:
    return None
  table = schema.table(path)
  given = value if isinstance(value, ConfigDict) else {'name': value}
  section = {'name': next(iter(table)), **given}
  facts = schema.facts.get(key, facts)
  constructor = find(table, path, section['name'], facts)
  _fill(section, constructor, path, schema, facts, outer)
  return ConfigDict(section)


def _fill(section, constructor, path, schema, facts=(), outer=(), plain=()):
  # Sets the parameters that a section lacks, in place.
  every = parameters(constructor)
  hidden = {*facts, *outer}
  fields = {
    name: parameter
    for name, parameter in every.items()
    if name not in hidden
    and (schema.table(f'{path}.{name}') or _is_plain(parameter.default))
  }
  _check_names(section, {*fields, *plain, 'name'}, path)
  for name, parameter in fields.items():
    where = f'{path}.{name}'
    if schema.table(where):
      optional = parameter.default is None
      default = None if optional else ConfigDict()
      value = section.get(name, default)
      section[name] = _choice(value, name, where, schema, facts, every)
    else:
      section[name] = _typed(section.get(name), parameter, where)
      if section[name] is None:
        section[name] = placeholder(_kind(parameter))


def _is_plain(default):
  # Returns whether a config can have a value; no default counts as one.
  kinds = bool, int, float, str, tuple, types.NoneType
  return default is inspect.Parameter.empty or isinstance(_plain(default), kinds)


def _check_names(section, names, path):
  for name in section:
    if name not in names:
      raise _no_field(path, name, names - {'facts'})


def _no_field(path, name, names):
  hint = near(name, list(names))
  owner = f'config.{path}' if path else 'the config'
  others = f'; {owner} has {", ".join(sorted(names - {"name"})) or "none"}'
  dot = f'{path}.' if path else ''
  return UserError(
    f'there is no field config.{dot}{name}{hint}{"" if hint else others}'
  )


def _plain(value):
  # Returns np.float32 and the like as a word.
  is_type = isinstance(value, type) and value is not inspect.Parameter.empty
  return np.dtype(value).name if is_type else value


def _kind(parameter):
  """Returns the type of a parameter; object where its annotation has none."""
  choices = typing.get_args(parameter.annotation)
  union = typing.get_origin(parameter.annotation) in (typing.Union, types.UnionType)
  for kind in choices if union else (parameter.annotation,):
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
      return type(typing.get_args(kind)[0])
    if origin in (tuple, list, Sequence):
      return tuple
    if origin in (bool, int, float, str):
      return origin
  default = _plain(parameter.default)
  known = isinstance(default, (bool, int, float, str, tuple))
  return type(default) if known else object


def words_of(annotation: Any) -> tuple[Any, ...]:
  """Returns the words that a Literal allows, also of a union with None."""
  for kind in (annotation, *typing.get_args(annotation)):
    if typing.get_origin(kind) is typing.Literal:
      return typing.get_args(kind)
  return ()


def _typed(value, parameter, path):
  # Returns the value of a field, its default for None, in the field's type.
  if value is None:
    value = parameter.default
    value = None if value is parameter.empty else value
  value, kind = _plain(value), _kind(parameter)
  if kind is float and type(value) is int:
    value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  if value is None or kind is object:
    return value
  if not isinstance(value, kind) or type(value) is bool and kind is not bool:
    raise UserError(f'config.{path}={value!r} is not {_TYPES[kind]}')
  words = words_of(parameter.annotation)
  if words:
    check_one_of(words, path, value)
  return value


_TYPES = {
  bool: 'True or False',
  int: 'an integer',
  float: 'a number',
  str: 'a word',
  tuple: 'a list such as 1,2',
}


def override(config: ConfigDict, path: str, text: str, tables: Mapping) -> None:
  """Sets the field `path` to what a flag gives, in place.

  A choice becomes the section of another name, of which `complete` fills in the
  rest; a part that is None becomes the first choice when one of its fields is
  set. Raises UserError for a field that does not exist and a value of another
  type.
  """
  if path.endswith('.name') and table_at(tables, path[:-5]):
    path = path[:-5]
  *parents, key = path.split('.')
  node: Any = config
  with config.unlocked(), config.ignore_type():
    for i, parent in enumerate(parents):
      child, where = node.get(parent), '.'.join(parents[: i + 1])
      if child is None and parent in node and table_at(tables, where):
        child = node[parent] = ConfigDict()
      if not isinstance(child, ConfigDict):
        raise _no_field('.'.join(parents[:i]), parent, set(node))
      node = child
    if table_at(tables, path):
      if text in ('', 'None'):
        node[key] = None
      elif node.get(key) is None or node[key].get('name') != text:
        node[key] = ConfigDict({'name': text})
    elif isinstance(node.get(key), ConfigDict):
      raise UserError(f'config.{path} is a section: set one of its fields')
    elif key in node or not node:
      kind = node.get_type(key) if key in node else object
      node[key] = parse(path, text, kind)
    else:
      raise _no_field('.'.join(parents), key, set(node))


def parse(path: str, text: str, kind: type) -> Any:
  """Returns the value of a type that a flag gives as text."""
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


def make(
  schema: Schema, key: str, section: ConfigDict, facts: Any = None, path: str = ''
) -> Any:
  """Makes the object that the complete section of a choice describes.

  key: the field of the choice; facts: an object with the attributes
  schema.facts[key], where None stands for the default of a parameter. Raises
  UserError for what a constructor refuses.
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
    elif parameter.default is parameter.empty:
      raise UserError(f'config.{path}.{name} is not set: {section.name} needs it')
  with from_config(path):
    return constructor(**values)


def make_part(schema: Schema, path: str, config: ConfigDict) -> Any:
  """Makes the object of a section with a single constructor.

  Choices within it are made, except those that need facts: they stay sections.
  """
  section = functools.reduce(lambda node, key: node[key], path.split('.'), config)
  constructor = schema.parts[path]
  values = {}
  for name in parameters(constructor):
    value = section[name]
    if isinstance(value, ConfigDict) and not schema.facts.get(name):
      value = make(schema, name, value, path=f'{path}.{name}')
    values[name] = value
  with from_config(path):
    return constructor(**values)

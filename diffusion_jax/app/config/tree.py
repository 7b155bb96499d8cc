"""A config is a tree of constructors, which one walk completes and checks.

A section holds a name and the parameters of the constructor with that name,
such as {'name': 'ddim', 'eta': 0.0}. `resolve` turns nested dicts into `Node`s,
with the defaults of the signatures. A flag is a `FlagText` in the same dicts;
see `overrides.merge`.

Two kinds of parameters are not fields: facts, which follow from the data or
other sections and which `Node.make` gets, and parameters that the enclosing
choice has as well. A part is a section without a name, since it has only one
constructor.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from flax import traverse_util

from diffusion_jax import ranges
from diffusion_jax.aliases import Json, Tree
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.schema import (
  ANY,
  EMPTY,
  Constructor,
  Constructors,
  Contract,
  Schema,
  annotation_of,
  default_of,
  name_of,
  parameters,
)
from diffusion_jax.declared import Declared, declared_by
from diffusion_jax.errors import UserError, place_of
from diffusion_jax.paths import READ, RUN, WRITTEN, expanded, texts_in, use_of
from diffusion_jax.ranges import CUTOFF, PLAIN, FlagText, meant, near, nearest, plain_type


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Node(Tree):
  """A complete section, whose fields are items and attributes.

  A value is plain, a Node, or None. where: the path of the section; choice: the
  name of a choice, '' for a part; needs: the names of its facts; given: facts
  that every `make` has; common, contract: see `Schema`; schema: of a part.
  """

  where: str
  constructor: Constructor
  _fields: Tree
  choice: str = ''
  needs: Collection[str] = ()
  given: Mapping[str, object] = dataclasses.field(default_factory=dict)
  common: Constructor | None = None
  contract: Contract = ANY
  schema: Schema = Schema(
    kind='', tables={}, choices=(), optional=(), parts={}, facts={}, metrics={}
  )

  @property
  def signature(self) -> Mapping[str, inspect.Parameter]:
    """The parameters of its constructor and of `common`."""
    common = parameters(self.common) if self.common else {}
    return {**parameters(self.constructor), **common}

  @property
  def declared(self) -> Declared:
    """What its constructor says of itself."""
    return declared_by(self.constructor)

  def __getitem__(self, name: str) -> Any:
    return self._fields[name]

  def __getattr__(self, name: str) -> Any:
    if name.startswith('_') or name not in self._fields:
      raise AttributeError(f'config.{self.where} has no field {name}')
    return self._fields[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._fields)

  def __len__(self) -> int:
    return len(self._fields)

  def __repr__(self) -> str:
    return repr(self.to_dict())

  def to_dict(self) -> Json:
    """Returns the section as nested dicts."""
    return {n: x.to_dict() if isinstance(x, Node) else x for n, x in self.items()}

  @functools.cached_property
  def flat(self) -> Mapping[str, object]:
    """{'section.field': value}, as `as_json` writes values."""
    return traverse_util.flatten_dict(as_json(self.to_dict()), sep='.')

  @functools.cached_property
  def default_fields(self) -> Mapping[str, object]:
    """The defaults of a config's sections, as `flat`, without the names of choices.

    These are the fields of a config with the same choices and nothing else set.
    """

    def names(section):
      inner = {n: names(x) for n, x in section.items() if isinstance(x, Node) and n != 'facts'}
      return inner | ({'name': section['name']} if section.choice else {})

    usual = resolve(names(self), self.schema).flat
    kept = (n for n in usual if not (n.endswith('.name') or n.startswith('facts.')))
    return {n: usual[n] for n in kept}

  def replace(self, **fields: object) -> 'Node':
    """Returns the section with other values of its fields."""
    return dataclasses.replace(self, _fields={**self, **fields})

  def as_held_out(self) -> 'Node':
    """Returns an objective's section as a held-out loss has it; see `Declared.training_only`."""
    inner = {name: x.as_held_out() for name, x in self.items() if isinstance(x, Node)}
    own = {name: default_of(self.signature[name]) for name in self.declared.training_only}
    return self.replace(**inner | own)

  def at(self, path: str) -> Any:
    """Returns a section or field below this one; None if it does not exist."""
    value = self
    for name in path.split('.') if path else ():
      value = value.get(name) if isinstance(value, Node) else None
    return value

  def paths(self, prefix: str = '') -> Iterator[str]:
    """Yields the paths of all fields, those at the top first."""
    yield from (prefix + name for name in self)
    for name, value in self.items():
      if isinstance(value, Node):
        yield from value.paths(f'{prefix}{name}.')

  def paths_read(self, *uses: str) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Yields (field, path or paths) of what is read, here and below; uses: READ, RUN."""
    for name, value in self.items():
      if isinstance(value, Node):
        yield from value.paths_read(*uses)
      elif value and self._use(name) in uses and value not in ('train', 'test'):  # no splits
        yield below(self.where, name), value

  def _use(self, name):
    return _use(self.signature.get(name), self.get(name), self.choice)

  def without_folders(self) -> 'Node':
    """Returns the section with only the names of the files that are read."""
    fields: Json = {}
    for name, value in self.items():
      if isinstance(value, Node):
        fields[name] = value.without_folders()
      elif value and self._use(name) in (READ, RUN):
        fields[name] = _each(lambda path: os.path.basename(path.rstrip('/')), value)
    return self.replace(**fields)

  def make(self, facts: Tree | None = None, outer: Tree = MappingProxyType({})) -> Any:
    """Calls the constructors of the section and its inner sections.

    facts: values for `needs`; None stands for the parameter's default. Inner
    choices that need others stay Nodes. outer: the fields of the choices around
    it. Raises UserError if a constructor refuses its arguments.
    """
    facts = {**self.given, **(facts or {})}
    around = {**outer, **self._fields} if self.choice else {}
    values = {}
    for name, parameter in parameters(self.constructor).items():
      is_fact = name in self.needs
      value = facts.get(name) if is_fact else outer.get(name, self.get(name))
      if isinstance(value, Node) and {*facts, *self.needs} >= {*value.needs}:
        value = value.make(facts, around)
      elif not is_fact and self.choice and value != parameter.default and self._use(name) == READ:
        trust.check_paths((below(self.where, name), value))
      # None is kept where a field has another default.
      is_none = not is_fact and name in self and parameter.default is not EMPTY
      if value is not None or is_none:
        values[name] = value
      elif parameter.default is EMPTY:
        raise self._unset(name)
    with from_config(self.where):
      if (is_here := getattr(self.constructor, 'is_here', None)) and not is_here(**values):
        trust.check_download(self.where, self.choice)
      part = self.constructor(**values)
      if ':' in self.choice:
        trust.check_made(self.where, self.choice, part, self.contract)
    return part

  def _unset(self, name):
    # Returns the error about a parameter without a value.
    if name in self.needs:
      what = f'{self.where}={self.choice}: the other sections do not give the {name} that it needs'
      return UserError(f'config.{what}')
    owner = self.choice or _last(self.where)
    return UserError(f'config.{below(self.where, name)} is not set: {owner} needs it')


def as_json(value: Any) -> Any:
  """Returns a value in JSON's types: dicts, lists, numbers and strings.

  JSON has no infinity, whose text is read as the number again.
  """
  if isinstance(value, dict):
    return {name: as_json(x) for name, x in value.items()}
  if isinstance(value, tuple | list):
    return [as_json(x) for x in value]
  if isinstance(value, np.generic):  # in the facts of a user's source
    value = float(value) if isinstance(value, np.floating) else value.item()
  return str(value) if isinstance(value, float) and math.isinf(value) else value


def _use(parameter, value, choice):
  # Returns READ also for a string in a user's own part that may be a path.
  use = use_of(parameter.annotation) if parameter else ''
  is_own = ':' in choice and any('/' in x or os.path.exists(x) for x in texts_in(value))
  return use or READ * is_own


def _each(function, value):
  if isinstance(value, tuple):
    return tuple(_each(function, x) for x in value)
  return function(value) if isinstance(value, str) else value


def _last(path):
  return path.rpartition('.')[2]


def below(path: str, name: str) -> str:
  """Returns the path of a field of a section."""
  return f'{path}.{name}' if path else name


# Errors: one line that names the field and what fits.


@contextlib.contextmanager
def from_config(path: str) -> Iterator[None]:
  """Turns an error of a constructor into a UserError about config.path.

  A TypeError within a user's own part is raised as it is.
  """
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    if isinstance(error, TypeError) and place_of(error):
      raise
    raise UserError(f'config.{path}: {error}') from error


def convert(value: Any, kind: object, path: str) -> Any:
  """Returns the value of a field in its type; see `ranges.convert`."""
  try:
    return ranges.convert(value, kind)
  except ranges.Misfit as error:
    hint = near(error.value, error.words)
    raise UserError(
      f'config.{path}{error.place}={error.value!r}{hint} is not {error.expected}'
    ) from None


def check_one_of(names: Collection[object], path: str, value: object) -> None:
  """Raises UserError for a value that is not one of the names."""
  if value not in (*names,):
    words = [*map(str, names)]
    raise UserError(f'config.{path}={value!r}{near(value, words)} is not one of {", ".join(words)}')


def check_set(path: str, value: object, hint: str) -> None:
  """Raises UserError with a hint unless the field has a value."""
  if value is None or value == '':
    raise UserError(f'config.{path} is not set: {hint}')


def check_section(section: object, path: str) -> None:
  """Raises UserError for a value that is not a section."""
  if isinstance(section, ranges.FlagText):
    raise UserError(f'config.{path} is a section: set one of its fields')
  if not isinstance(section, Mapping):
    raise UserError(f'config.{path}={section!r} is not a section with fields')


def no_field(
  path: str,
  names: Collection[str],
  schema: Schema,
  choice: str = '',
  everywhere: Collection[str] = (),
) -> UserError:
  """Returns the error about a field that does not exist.

  names: the fields of its section; choice: the name in its section; everywhere:
  the paths of all fields. The message names the choices of the section that have
  the field, or else fields with a similar name.
  """
  section, _, name = path.rpartition('.')
  owner = section + f'={choice}' * bool(choice)
  facts = {fact for part in section.split('.') for fact in schema.facts.get(part, ())}
  others = [x for x, make in schema.table(section).items() if name in {*parameters(make)} - facts]
  if others:
    some = ' or '.join(others[:4]) + ', …' * (len(others) > 4)
    return UserError(f'there is no field config.{path} with {owner}; {section}={some} has it')
  fields = sorted({*names} - {'name' if choice else '', 'facts'})
  aliases = (x.rpartition('.') for x in schema.aliases)
  hint = nearest(name, [*fields, *(last for above, _, last in aliases if above == section)])
  if not section or not hint:
    # Within a section only a field of the same name is meant.
    hint = paths_near(path, [*everywhere, *schema.aliases], 1.0 if section else CUTOFF)
  owner = f'config.{owner}' if section else 'the config'
  others = f'; {owner} has {", ".join(fields) or "none"}'
  return UserError(f'there is no field config.{path}{meant(map(repr, hint)) or others}')


def paths_near(path: str, paths: Iterable[str], cutoff: float = CUTOFF) -> list[str]:
  """Returns up to three of the paths, whose last names are nearest to the last name of `path`."""
  by_name: dict[str, list[str]] = {}
  for other in paths:
    by_name.setdefault(_last(other), []).append(other)
  names = nearest(_last(path), by_name, cutoff=cutoff)
  return [x for name in names for x in difflib.get_close_matches(path, by_name[name], 3, 0.0)]


def find(
  table: Constructors,
  path: str,
  name: object,
  facts: Collection[str] = (),
  contract: Contract = ANY,
) -> Constructor:
  """Returns table[name], or the constructor that 'module:attribute' names.

  facts: the names of the facts that `Node.make` passes to it; contract: what the
  latter must be.
  """
  if ':' in str(name):
    return trust.find(path, str(name), facts, contract)
  check_one_of(table, path, name)
  return table[str(name)]


# The walk.


def resolve(tree: Tree, schema: Schema) -> Node:
  """Returns the complete config of nested dicts.

  Raises UserError for a field that does not exist and for a value of another
  type.
  """
  trust.check_imports(*_own_parts(schema, tree, ''))
  root = _part(schema, tree, '')
  for path, names, choice in _unknown(schema, tree, root):
    raise no_field(path, names, schema, choice, [*root.paths()])
  return root


def _own_parts(schema, given, path):
  # Yields (path, module:attribute) of the choices of a user's own.
  for name, value in given.items():
    where, is_section = below(path, name), isinstance(value, Mapping)
    chosen = value.get('name') if is_section else value
    if isinstance(chosen, str) and ':' in chosen and schema.table(where):
      yield where, str(chosen)
    if is_section:
      yield from _own_parts(schema, value, where)


def _part(schema, given, path):
  check_section(given, path)
  fields = _fields(schema, given, schema.parts[path], path)
  for name in () if path else schema.choices:
    optional = name in schema.optional
    value = given.get(name, None if optional else {})
    fields[name] = _choice(schema, value, name, optional)
  for part in filter(None, schema.parts):
    above, _, name = part.rpartition('.')
    if above == path:
      fields[name] = _part(schema, given.get(name, {}), part)
  return Node(path, schema.parts[path], fields, schema=schema)


def _choice(schema, given, path, optional, default=None, needs=(), outer=()):
  if not isinstance(given, Mapping):
    given = {'name': given}
  table = schema.table(path)
  name = given.get('name', name_of(table, default))
  if isinstance(name, FlagText):
    name = None if name.lower() in ('', 'none') else str(name)
  if isinstance(name, Mapping):
    raise no_field(below(path, f'name.{next(iter(name), "")}'), (), schema)
  if name is None and optional:
    for field in {*given} - {'name'}:
      raise no_field(below(path, field), (), schema, 'None')
    return None
  needs = schema.facts.get(_last(path), needs)
  contract = schema.contract(path)
  constructor = find(table, path, name, needs, contract)
  name = str(name)
  fields = _fields(schema, given, constructor, path, needs=needs, outer=outer, choice=name)
  if common := schema.common.get(path):
    fields |= _fields(schema, given, common, path, choice=name)
  fields = {'name': name, **fields}
  return Node(path, constructor, fields, name, needs, common=common, contract=contract)


def _fields(schema, given, constructor, path, needs=(), outer=(), choice=''):
  every, values = parameters(constructor), {}
  hidden = {*needs, *outer, 'name' if choice else ''}
  shared = {*outer, *every} if choice else ()
  for name, parameter in every.items():
    where, default = below(path, name), default_of(parameter)
    if name in hidden:
      continue
    is_plain = isinstance(default, (*PLAIN,))  # A config can hold it.
    if table := schema.table(where):
      if is_plain:
        raise UserError(
          f'config.{path}={choice}: its parameter {name}={default} has the '
          f'name of a choice ({", ".join(table)}); give it another name'
        )
      value = given.get(name, None if default is None else {})
      optional = default is None or type(None) in get_args(parameter.annotation)
      values[name] = _choice(
        schema, value, where, optional, default=default, needs=needs, outer=shared
      )
    elif is_plain or default is None or default is EMPTY:
      values[name] = _value(given.get(name, default), parameter, where, choice)
  return values


def _value(value, parameter, path, choice):
  default, kind = parameter.default, annotation_of(parameter)
  if isinstance(value, FlagText):
    is_text = default is not None or plain_type(kind) is str
    value = None if (value if is_text else value.title()) == 'None' else value
  if value is EMPTY or isinstance(value, Mapping):  # `_unknown` refuses it
    return None
  if value is None and (default is None or default is EMPTY):
    return None
  if value is None and get_args(kind)[1:] == (...,):  # A list: None is one of nothing.
    value = ()
  value = convert(value, kind, path)
  if not (use := _use(parameter, value, choice)):
    return value
  with from_config(path):
    return _each(lambda text: expanded(text, use == WRITTEN), value)


def _unknown(schema, given, node):
  # Yields what is given and no field: (path, fields of its section, choice).
  for name, value in given.items():
    where, section = below(node.where, name), node.get(name)
    if name not in node:
      yield where, node, node.choice
    elif isinstance(value, Mapping) and isinstance(section, Node):
      yield from _unknown(schema, value, section)
    elif isinstance(value, Mapping) and not schema.table(where):
      yield below(where, next(iter(value), '')), (), ''

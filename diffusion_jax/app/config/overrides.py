"""Other values of fields: their paths, aliases and texts, and nested dicts with them."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from diffusion_jax.aliases import Json, Tree
from diffusion_jax.app.config.schema import Schema, parameters
from diffusion_jax.app.config.tree import Node, below
from diffusion_jax.errors import UserError

Flags = Sequence[tuple[str, str]]  # (path of a field, its text)
Fields = Collection[tuple[str, Any]]  # (path of a field, its value)


def spelled(path: str, schema: Schema) -> str:
  """Returns the path of a field, which may be an alias."""
  section, _, field = schema.aliases.get(path, ('', '', ''))
  return f'{section}.{field}' if section else path


def spelled_once(fields: Fields, schema: Schema) -> Json:
  """Returns {path: value} of fields, (path, value) each, without aliases.

  The name of a choice is its field `name`. Raises UserError for two values of
  one field, whichever way each of them is written.
  """
  values: dict[str, tuple[str, object]] = {}  # field -> what was given, and its value
  for path, value in fields:
    section, choice, field = schema.aliases.get(path, ('', '', ''))
    if section:
      meaning = {f'{section}.name': choice, f'{section}.{field}': value}
    else:
      is_name = schema.table(path) and not isinstance(value, Mapping)
      meaning = {f'{path}.name' if is_name else path: value}
    for name, x in meaning.items():
      text = f'config.{path}={as_text(value)}'
      first, before = values.setdefault(name, (text, x))
      if before != x:
        one = name.removesuffix('.name')
        raise UserError(f'{first} and {text} give config.{one} two values: leave one of them out')
  return {name: value for name, (_, value) in values.items()}


def merge(tree: Tree, fields: Fields, schema: Schema) -> Json:
  """Returns nested dicts with other values of fields, (path, value) in any order.

  The name of another choice drops the fields of the previous choice, but not
  those that all choices have.
  Raises UserError for two values of one field, and for a section and one of its
  fields that are both given.
  """
  given: Json = {}
  for path, value in spelled_once(fields, schema).items():
    *above, last = path.split('.')
    node = given
    for name in above:
      node = node.setdefault(name, {})
      if not isinstance(node, dict):
        break
    if not isinstance(node, dict) or isinstance(node.get(last), dict):
      raise UserError(f'config.{path}: a value is given for this field and for a part of it')
    node[last] = value
  return _merged(tree, given, '', schema)


def _merged(old, new, path, schema):
  if not isinstance(new, dict):
    return new
  old = old if isinstance(old, Mapping) else {}
  named = 'name' in new and schema.table(path)
  if named and old.get('name') != new['name']:
    is_none = str(new['name']).lower() in ('', 'none')
    common = schema.common.get(path)
    names = parameters(common) if common and not is_none else ()
    return {name: old[name] for name in names if name in old} | new
  inner = {
    name: _merged(old.get(name), value, below(path, name), schema) for name, value in new.items()
  }
  return {**old, **inner}


def of_kind(section: Node, kind: Schema) -> Json:
  """Returns a section as nested dicts, without what a kind of model lacks."""
  maker = section.constructor
  other = kind.parts.get(section.where) or kind.table(section.where).get(section.choice, maker)
  if section.choice and parameters(other).keys() != parameters(maker).keys():
    return {'name': section.choice}
  names = {'name', *parameters(other), *section.signature.keys() - parameters(maker).keys()}
  if not section.where:
    names |= {*kind.choices, *kind.parts, 'facts'}
  return {
    n: of_kind(x, kind) if isinstance(x, Node) else x for n, x in section.items() if n in names
  }


def without_aliases(tree: Tree, schema: Schema) -> Tree:
  """Returns nested dicts with the fields that their aliases stand for."""
  for short, (path, _, field) in schema.aliases.items():
    above, _, last = short.rpartition('.')
    section = tree.get(above)
    if isinstance(section, Mapping) and last in section:
      inner = section.get(path.rpartition('.')[2])
      inner = inner if isinstance(inner, Mapping) else {'name': inner}
      fields = [(short, section[last])]
      fields += [(path, inner['name'])] if inner.get('name') else []
      fields += [(f'{path}.{field}', inner[field])] if field in inner else []
      rest = {n: x for n, x in section.items() if n != last}
      tree = merge({**tree, above: rest}, fields, schema)
  return tree


@contextlib.contextmanager
def as_typed(changes: Fields, aliases: Mapping[str, tuple[str, str, str]]) -> Iterator[None]:
  """Lets errors call a field as the user does, who may have typed an alias."""
  try:
    yield
  except UserError as error:
    text = str(error)
    for path, _ in changes:
      section, _, field = aliases.get(path, ('', '', ''))
      text = text.replace(f'config.{section}.{field}=', f'config.{path}=') if section else text
    raise UserError(text) from error


def tuples(tree: object) -> object:
  """Returns the content of a config.json with tuples for lists."""
  if isinstance(tree, Mapping):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree


def as_flags(fields: Mapping[str, object], section: str = '') -> Flags:
  """Returns nested dicts of fields as flags; a name may have dots too."""
  flags: list[tuple[str, str]] = []
  for name, value in fields.items():
    path = below(section, name)
    flags += as_flags(value, path) if isinstance(value, Mapping) else [(path, as_text(value))]
  return flags


def as_text(value: object) -> str:
  """Formats a value as a flag takes it."""
  value = getattr(value, 'tolist', lambda: value)()  # NumPy's numbers and arrays become Python's
  if not isinstance(value, tuple | list):
    return str(value)
  return ','.join(f'"{x}"' if ',' in str(x) else str(x) for x in value)

"""Complete configs of files, runs and flags."""

import contextlib
import importlib.util
import itertools
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import paths
from diffusion_jax.aliases import Json, Tree
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.schema import Constructor, Schema, parameters
from diffusion_jax.app.config.tree import Node, below, no_field, resolve
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import FlagText, near
from diffusion_jax.runtime.run_folder import RunFolder

Flags = Sequence[tuple[str, str]]  # (path of a field, its text)
Fields = Collection[tuple[str, Any]]  # (path of a field, its value)


class Registry(NamedTuple):
  """What the application tells of its configs.

  kind_of: nested dicts -> their schema.
  more: (tree, schema) -> constructors of the parts that only some configs have,
  by path; those within the section `growing` may be unknown here, of a
  stranger's metric for instance. uses: the sections that say how a model is
  used; free: the beginnings of all fields that a mode may change of a run, and
  between_starts of those that may change between two starts of a training;
  not_read: what is not read from a config.json. needed: by fields that name a
  run, its kind.
  """

  kind_of: Callable[[Tree], Schema]
  more: Callable[[Tree, Schema], Mapping[str, Constructor]]
  growing: str
  uses: tuple[str, ...]
  free: tuple[str, ...]
  between_starts: tuple[str, ...]
  not_read: tuple[str, ...]
  needed: Mapping[str, str]


def completed(registry: Registry, tree: Tree | ConfigDict, trusted: bool = True) -> Node:
  """Returns the config with all parameters of its sections.

  trusted: the user wrote the config, so the modules that it names may be
  imported. Otherwise the sections of metrics that cannot be used are left out.
  """
  tree = tree.to_dict() if isinstance(tree, ConfigDict) else tree
  if trusted:
    trust.allow(paths.texts_in(tree))
  schema = registry.kind_of(tree)
  tree = _spelled_out(tree, schema)
  schema = schema._replace(parts={**schema.parts, **registry.more(tree, schema)})
  if not trusted:
    path = registry.growing
    usable = {*parameters(schema.parts[path]), *(x.removeprefix(f'{path}.') for x in schema.parts)}
    section = tree.get(path, {})
    others = {n for n, x in section.items() if isinstance(x, Mapping) and not _has_flag(x)}
    tree = {**tree, path: {n: x for n, x in section.items() if n not in others - usable}}
  return resolve(tree, schema)


def _spelled_out(tree, schema):
  # Returns a tree with the fields that its aliases stand for.
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


def _has_flag(section):
  # Returns whether flags set a field of a section.
  return any(isinstance(x, FlagText) for x in section.values())


def allow(names: Iterable[str], flags: Flags) -> None:
  """Allows what the user names by --allow, and by flags."""
  trust.allow_parts(names)
  trust.allow(text for _, text in flags)


def with_flags(registry: Registry, config: Node, flags: Flags, trusted: bool = True) -> Node:
  """Returns the config as the flags change it; their order does not matter.

  trusted: the user wrote the flags, so the modules that they name may be
  imported. See `with_fields`.
  """
  if trusted:
    trust.allow(text for _, text in flags)
  changed = _changed(registry, config, [(path, FlagText(text)) for path, text in flags])
  if not trusted:
    sections = {path.partition('.')[0] for path, _ in flags}
    inner = [changed[name] for name in changed if name in sections]
    read = (x.paths_read(paths.READ) for x in inner if isinstance(x, Node))
    trust.check_paths(*itertools.chain(*read))
  return changed


def with_fields(registry: Registry, config: Tree, changes: Tree) -> Node:
  """Returns the config with other values of the fields {path: value}.

  An optional part becomes its first choice when one of its fields is set. If
  another objective needs another kind of model, the sections that this kind
  lacks are dropped; if the data change, the facts of a run are dropped.
  """
  return _changed(registry, config, changes.items())


def _changed(registry, config, changes):
  with _as_typed(changes, registry.kind_of(config).aliases):
    return _with_changes(registry, config, changes)


@contextlib.contextmanager
def _as_typed(changes, aliases):
  # Lets errors call a field as the user does, who may have typed an alias.
  try:
    yield
  except UserError as error:
    text = str(error)
    for path, _ in changes:
      section, _, field = aliases.get(path, ('', '', ''))
      text = text.replace(f'config.{section}.{field}=', f'config.{path}=') if section else text
    raise UserError(text) from error


def _with_changes(registry, config, changes):
  before = registry.kind_of(config)
  # Fields that only another kind of model has are not choices of this one.
  upper = [(path, x) for path, x in changes if path.count('.') < 2]
  kind = registry.kind_of(merge(config, upper, before))
  if kind is not before:
    config = of_kind(completed(registry, config, trusted=False), kind)
  tree = merge(config, changes, kind)
  tops = {path.partition('.')[0] for path, _ in changes}
  if 'facts' in tops:
    raise no_field('facts', completed(registry, config, trusted=False), kind)
  if 'data' in tops:
    tree.pop('facts', None)
  for name in {*kind.optional} - {*kind.choices}:  # They are None or of another kind.
    tree.pop(name, None)
  return completed(registry, tree, trusted=False)


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


def stored(
  registry: Registry,
  content: Mapping[str, object],
  path: object,
  skip: Collection[str] | None = None,
) -> Node:
  """Returns the complete config that a config.json contains.

  path: the file, for messages; skip: sections that are not read, by default
  `not_read`. A
  'module:attribute' is imported only if the user names it; see `own`.
  """
  skip = registry.not_read if skip is None else skip
  try:
    tree = {n: tuples(x) for n, x in content.items() if n not in skip}
    return completed(registry, tree, trusted=False)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise UserError(f'{path} is not the config of a run: {error}') from error


def tuples(tree: object) -> object:
  """Returns the content of a config.json with tuples for lists."""
  if isinstance(tree, Mapping):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree


def open_run(
  registry: Registry,
  workdir: RunFolder,
  path: str = '',
  skip: Collection[str] | None = None,
  as_saved: bool = True,
) -> Node:
  """Returns the complete config of the run in a folder.

  path: the field that names the run; skip: sections that are not read; as_saved:
  False for a config that may differ from the config of the run's weights. Raises UserError
  for a folder without a run, if only a stored config names it, and if its
  config.json is of other weights than it has.
  """
  content = _content(registry, workdir, path, as_saved)
  return stored(registry, content, f'{workdir}/config.json', skip)


def _content(registry, workdir, path='', as_saved=True):
  # Returns the content of a run's config.json; the run's own parts are allowed.
  if path:
    trust.check_paths((path, workdir.name))
  content = folder.read_config(workdir.path)
  if content is None:
    folder.check_config_kept(workdir.path)
    raise UserError(folder.missing(path, workdir, registry.needed.get(path, '')))
  if as_saved:
    folder.check_as_saved(workdir.path, registry.between_starts)
  trust.recall(workdir.path)
  return content


def of_run(registry: Registry, workdir: RunFolder, config: Node | None, flags: Flags) -> Node:
  """Returns the config for a mode that uses the run in workdir.

  The run decides the model and the data; `config`, the user's own file, and the
  flags decide how they are used; None: the run and the flags. Raises UserError
  for flags that would change the model.
  """
  content = _content(registry, workdir)
  trust.allow(text for _, text in flags)
  tree = {n: tuples(x) for n, x in content.items() if n not in registry.not_read}
  try:
    if config is not None:
      kind, ours = registry.kind_of(tree).kind, config.schema.kind
      if ours != kind:
        raise UserError(
          f'{workdir} holds {kind}, and --config describes {ours}: give --config={workdir}'
        )
      tree = {n: x for n, x in tree.items() if n not in registry.uses}
      tree |= {n: x for n, x in config.to_dict().items() if n in registry.uses}
    changed = _changed(registry, tree, [(path, FlagText(text)) for path, text in flags])
    if 'facts' in tree and 'facts' not in changed:  # the flags change the data
      changed = changed.replace(facts=completed(registry, tree, trusted=False).facts)
  except (UserError, KeyError, TypeError, AttributeError, ValueError):
    stored(registry, content, f'{workdir}/config.json')  # The run itself may be the reason.
    raise
  _check_model(registry, workdir, changed, flags)
  trust.remember(workdir.path, changed)
  return changed


def _check_model(registry, workdir, changed, flags):
  # Raises UserError for flags that change the model of a run.
  before, now = dict(folder.stored_fields(workdir.path)), changed.flat
  paths = tuple(path for path, _ in flags)
  before |= {n: x for n, x in now.items() if n not in before and not n.startswith(paths)}
  if fixed := folder.differences(before, now, registry.free):
    raise UserError(
      f'config.{fixed}: only a training can change this; the model comes from {workdir}/config.json'
    )


@contextlib.contextmanager
def _in_file(path: str) -> Iterator[None]:
  # Turns any error of a config file into one line that names its place.
  try:
    yield
  except SyntaxError as error:
    place = f'{error.filename}, line {error.lineno}'
    raise UserError(f'{place}: {error.msg}') from error
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [x for x in frames if Path(x.filename) == Path(path).absolute()]
    place = f'{path}, line {lines[-1].lineno}' if lines else path
    hint = ''
    if isinstance(error, AttributeError) and isinstance(error.obj, ConfigDict):
      hint = '; set the field first: sections begin empty'
    kind = type(error).__name__
    raise UserError(f'{place}: {kind}: {error}{hint}') from error


def module_of(path: str) -> ModuleType:
  """Imports a config file; raises UserError if it has no get_config()."""
  spec = importlib.util.spec_from_file_location(Path(path).stem, path)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} is not a config: give a Python file, name.py')
  module = importlib.util.module_from_spec(spec)
  with _in_file(path):
    spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path} is not a config: it has no function get_config()')
  return module


def from_file(path: str, argument: str = '') -> ConfigDict:
  """Returns the config of a file, without the program's defaults; argument: one of VARIANTS."""
  module = module_of(path)
  variants = getattr(module, 'VARIANTS', ())
  if argument and argument not in variants:
    words = 'smoke', *variants
    raise UserError(
      f'{path}:{argument}{near(argument, words)}: the argument of this config '
      f'can be {", ".join(words)}'
    )
  with _in_file(path):
    config = module.get_config(*([argument] if variants else []))
  if not isinstance(config, ConfigDict):
    raise UserError(f'{path}: get_config() returned {type(config).__name__}, not a ConfigDict')
  return config


def sweep(path: str, index: int) -> Flags:
  """Returns point number `index` of a config file's sweep(), as flags.

  A point is a dict {'section.field': value}. Raises UserError for an index out of range.
  """
  module = module_of(path)
  if not hasattr(module, 'sweep'):
    raise UserError(f'--sweep_index: {path} has no sweep()')
  with _in_file(path):
    changes = [{**change} for change in module.sweep()]
  if not 0 <= index < len(changes):
    raise UserError(
      f'--sweep_index={index}: the sweep() of {path} has {len(changes)}, 0..{len(changes) - 1}'
    )
  return as_flags(changes[index])


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

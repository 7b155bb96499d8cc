"""Complete configs of files, runs and flags."""

import contextlib
import functools
import importlib.util
import json
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from diffusion_jax import paths
from diffusion_jax.aliases import Json, Tree
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.tree import Node, Schema, below, no_field, parameters, resolve
from diffusion_jax.app.kinds import schemas
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.data.sources import Facts
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import FlagText, near
from diffusion_jax.runtime import buckets

Flags = Sequence[tuple[str, str]]  # (path of a field, its text)


def completed(tree: Tree | ConfigDict, trusted: bool = True) -> Node:
  """Returns the config with all parameters of its sections.

  trusted: the user wrote the config, so the modules that it names may be
  imported. Otherwise the sections of metrics that cannot be used are left out.
  """
  tree = tree.to_dict() if isinstance(tree, ConfigDict) else tree
  if trusted:
    trust.allow(paths.texts_in(tree))
  schema = schema_of(tree)
  if not trusted:
    section = tree.get('evaluation', {})
    usable = {*parameters(Evaluation), *(path.removeprefix('evaluation.') for path in schema.parts)}
    section = {n: x for n, x in section.items() if n in usable or _is_flag(x)}
    tree = {**tree, 'evaluation': section}
  return resolve(tree, schema)


def _is_flag(value):
  # Returns whether flags set a field that has no value besides them.
  values = value.values() if isinstance(value, dict) else [value]
  return any(isinstance(x, FlagText) for x in values)


def schema_of(tree: Tree) -> Schema:
  """Returns the schema of a config, including its optional sections.

  These are evaluation.<metric>, for the metrics that it names, and the facts of
  a run.
  """
  schema, facts = schemas.kind_of(tree), tree.get('facts')
  parts = {**schema.parts, **schemas.of_metrics(tree, schema)}
  if facts is not None:
    arrays = (name for name in ('x', 'context') if facts.get(name) is not None)
    parts |= {'facts': Facts, **{f'facts.{name}': ArraySpec for name in arrays}}
  return schema._replace(parts=parts)


def with_flags(config: Node, flags: Flags, trusted: bool = True) -> Node:
  """Returns the config as the flags change it; their order does not matter.

  trusted: the user wrote the flags, so the modules that they name may be
  imported. See `with_fields`.
  """
  if trusted:
    trust.allow(text for _, text in flags)
  changed = with_fields(config, {path: FlagText(text) for path, text in flags})
  if not trusted:
    trust.check_paths(*changed.sampling.paths_read(paths.READ))
  return changed


def with_fields(config: Tree, changes: Tree) -> Node:
  """Returns the config with other values of the fields {path: value}.

  An optional part becomes its first choice when one of its fields is set. If
  another objective needs another kind of model, the sections that this kind
  lacks are dropped; if the data change, the facts of a run are dropped.
  """
  before = schemas.kind_of(config)
  tree = merge(config, changes, before)
  kind = schemas.kind_of(tree)
  if kind is not before:
    tree = merge(of_kind(completed(config, trusted=False), kind), changes, kind)
  tops = {path.partition('.')[0] for path in changes}
  if 'facts' in tops:
    raise no_field('facts', completed(config, trusted=False))
  if 'data' in tops:
    tree.pop('facts', None)
  if 'latent' not in kind.choices:  # None, or of another kind
    tree.pop('latent', None)
  return completed(tree, trusted=False)


def merge(tree: Tree, fields: Tree, schema: Schema) -> Json:
  """Returns nested dicts with other values of fields, by path, in any order.

  The name of another choice drops the fields of the previous choice, but not
  those that all choices have.
  Raises UserError for a section and one of its fields that are both given.
  """
  given: Json = {}
  for path, value in fields.items():
    is_name = schema.table(path) and not isinstance(value, Mapping)
    *above, last = (f'{path}.name' if is_name else path).split('.')
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
  if section.choice and other is not maker:  # Its fields are others.
    return {'name': section.choice}
  names = {'name', *parameters(other), *section.signature.keys() - parameters(maker).keys()}
  if not section.where:
    names |= {*kind.choices, *kind.parts, 'facts'}
  return {
    n: of_kind(x, kind) if isinstance(x, Node) else x for n, x in section.items() if n in names
  }


def defaults(config: Node) -> Mapping[str, object]:
  """Returns the defaults of a config's sections, without the names.

  These are the fields of a config with the same choices and nothing else set.
  """
  names = {n: x for n, x in _names(config).items() if n != 'facts'}
  return _defaults(json.dumps(names))


@functools.lru_cache(8)
def _defaults(names):
  named = completed(json.loads(names), trusted=False)
  return {name: x for name, x in named.flat.items() if not name.endswith('.name')}


def _names(section):
  # Returns the sections within a section, with only their names.
  return {
    key: _names(x) if isinstance(x, Node) else x
    for key, x in section.items()
    if isinstance(x, Node) or key == 'name'
  }


# Sections that name files of one machine. They are not read from a config.json,
# which may come from a stranger: compiled programs are code too.
NOT_READ = 'compilation_cache', 'average', 'convert', 'report'


def stored(content: Mapping[str, object], path: object, skip: Collection[str] = NOT_READ) -> Node:
  """Returns the complete config that a config.json contains.

  path: the file, for messages; skip: sections that are not read. A
  'module:attribute' is imported only if the user names it; see `own`.
  """
  try:
    tree = {n: tuples(x) for n, x in content.items() if n not in skip}
    return completed(tree, trusted=False)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise UserError(f'{path} is not the config of a run: {error}') from error


def tuples(tree: object) -> object:
  """Returns the content of a config.json with tuples for lists."""
  if isinstance(tree, Mapping):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree


def open_run(workdir: str | Path, path: str = '', skip: Collection[str] = NOT_READ) -> Node:
  """Returns the complete config of the run in a folder.

  path: the field that names the run; skip: sections that are not read. Raises
  UserError for a folder without a run, and if only a stored config names it.
  """
  return stored(_content(workdir, path), f'{workdir}/config.json', skip)


def _content(workdir, path=''):
  # Returns the content of a run's config.json; the run's own parts are allowed.
  if path:
    trust.check_paths((path, str(workdir)))
  content = folder.read_config(workdir)
  if content is None:
    folder.check_config_kept(workdir)
    raise UserError(folder.missing(path, workdir))
  trust.recall(buckets.folder(workdir))
  return content


def of_run(
  workdir: str | Path, config: Node | None, flags: Flags, allow: Iterable[str] = ()
) -> Node:
  """Returns the config for a mode that uses the run in workdir.

  The run decides the model and the data; `config`, the user's own file, and the
  flags decide how they are used; None: the run and the flags. allow: as --allow.
  Raises UserError for flags that would change the model.
  """
  content = _content(workdir)
  trust.allow_parts(allow)
  trust.allow(text for _, text in flags)
  tree = {n: tuples(x) for n, x in content.items() if n not in NOT_READ}
  try:
    if config is not None:
      kind, ours = schemas.kind_of(tree).kind, schemas.kind_of(config).kind
      if ours != kind:
        raise UserError(
          f'{workdir} holds {kind}, and --config describes {ours}: give --config={workdir}'
        )
      tree = {n: x for n, x in tree.items() if n not in folder.USES}
      tree |= {n: x for n, x in config.to_dict().items() if n in folder.USES}
    changed = with_fields(tree, {path: FlagText(text) for path, text in flags})
    if 'facts' in tree and 'facts' not in changed:  # if the data change
      changed = changed.replace(facts=completed(tree, trusted=False).facts)
  except (UserError, KeyError, TypeError, AttributeError, ValueError):
    stored(content, f'{workdir}/config.json')  # The run itself may be the reason.
    raise
  _check_model(workdir, changed, flags)
  trust.remember(Path(workdir), changed)
  return changed


def _check_model(workdir, changed, flags):
  # Raises UserError for flags that change the model of a run.
  free = *folder.FREE, *folder.USES, *folder.COMPUTED_BY, 'data', 'facts'
  before, now = dict(folder.stored_fields(workdir)), changed.flat
  paths = tuple(path for path, _ in flags)
  before |= {n: x for n, x in now.items() if n not in before and not n.startswith(paths)}
  if fixed := folder.differences(before, now, free):
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
  """Returns the config of a file, not completed; argument: one of VARIANTS."""
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


def sweep(path: str, index: int, flags: Flags) -> Flags:
  """Returns point number `index` of a config file's sweep(), as flags.

  A point is a dict {'section.field': value}. Raises UserError for an index out
  of range, and for a field that the flags set too.
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
  for name, _ in flags:
    if name in changes[index]:
      what = f'the sweep() of {path} changes it as well'
      raise UserError(f'--config.{name}: {what}')
  return [(name, as_text(value)) for name, value in changes[index].items()]


def as_text(value: object) -> str:
  """Formats a value as a flag takes it."""
  value = getattr(value, 'tolist', lambda: value)()  # of NumPy
  if not isinstance(value, tuple | list):
    return str(value)
  return ','.join(f'"{x}"' if ',' in str(x) else str(x) for x in value)

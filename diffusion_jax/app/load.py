"""Combines a config file, a run and flags into one complete config."""

import contextlib
import copy
import importlib.util
import itertools
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.app import own_parts, prerequisites, schemas, scoring
from diffusion_jax.app.config import (
  Schema,
  Table,
  at,
  choice_of,
  complete,
  near,
  override,
  parameters,
)
from diffusion_jax.app.run import folder
from diffusion_jax.demos.noising import Noising
from diffusion_jax.errors import UserError

Flags = Sequence[tuple[str, str]]  # (path of a field, its text)


def completed(config: ConfigDict, trusted: bool = True) -> ConfigDict:
  """Returns the config with all parameters of its sections; see `complete`.

  trusted: the user wrote the config, so the modules that it names may be
  imported. Otherwise the sections of metrics that cannot be used are left out.
  """
  if trusted:
    own_parts.allow(own_parts.names_in(config))
  else:
    config = scoring.without_others(config, schemas.schema_of(config))
  return complete(config, schema_of(config))


def schema_of(config: ConfigDict) -> Schema:
  """Returns the schema of a config, including its optional sections.

  These are evaluation.<metric>, for the metrics that it names, and noise.
  """
  schema = schemas.schema_of(config)
  parts = dict(schema.parts) | scoring.sections(config, schema)
  if 'noise' in config:
    parts['noise'] = Noising
  return schema._replace(parts=parts)


def with_flags(
  config: ConfigDict, flags: Flags, trusted: bool = True
) -> ConfigDict:
  """Returns the config as the flags change it; their order does not matter.

  A flag that names another choice, such as ('network', 'dit'), is applied
  before the flags for its fields. An optional part becomes its first choice
  when one of its fields is set. If another objective needs another kind of
  model, the sections that this kind lacks are dropped; if the data change, the
  facts of a run are dropped. trusted: the user wrote the flags, so the modules
  that they name may be imported.
  """
  if trusted:
    own_parts.allow(text for _, text in flags)
  replaced = {path.removesuffix('.name') for path, _ in flags}
  config = completed(config, trusted=False)
  other_data = any(path.partition('.')[0] == 'data' for path, _ in flags)
  if other_data and 'facts' in config:
    with config.unlocked():
      del config.facts
  for _, group in itertools.groupby(sorted(flags, key=_order), _order):
    for path, text in group:
      config = _set(config, path, text, replaced)
    config = completed(config, trusted=False)
  return config


def _order(flag):
  # Flags that decide the kind of model come first, then flags by depth.
  path = flag[0].removesuffix('.name')
  return path not in ('latent', 'objective'), path.count('.')


def _set(config, path, text, replaced):
  schema = schemas.schema_of(config)
  above = choice_of(path, schema).rpartition('.')[0]
  if schema.table(above) and at(config, above) is None:
    config = _set(config, above, next(iter(schema.table(above))), replaced)
    config = completed(config, trusted=False)
  override(config, path, text, schema)
  if schemas.schema_of(config).kind != schema.kind:
    config = completed(_of_kind(config, replaced), trusted=False)
  return config


def _of_kind(config, replaced):
  # Drops the sections and fields that the kind of model does not have. Choices
  # that it does not have are dropped if a flag replaces them.
  schema = schemas.schema_of(config)
  kept = {n: config[n] for n in (*schema.choices, 'facts') if n in config}
  for name in replaced.intersection(schema.choices, kept):
    if getattr(kept[name], 'name', None) not in schema.table(name):
      del kept[name]
  return ConfigDict(kept | fields_of_parts(config, schema.parts))


def fields_of_parts(config: ConfigDict, parts: Table) -> dict[str, Any]:
  """Returns the parameters of parts, as nested dicts."""
  fields: dict[str, Any] = {
    path: {n: owner[n] for n in parameters(part) if n in owner}
    for path, part in parts.items()
    if (owner := at(config, path)) is not None
  }
  return fields.pop('') | fields


def defaults(config: ConfigDict) -> dict[str, object]:
  """Returns the defaults of a config's sections, without the names.

  These are the fields of a config with the same choices and nothing else set.
  """
  named = completed(ConfigDict(_names(config)), trusted=False)
  fields = folder.flat(folder.plain(named)).items()
  return {name: x for name, x in fields if not name.endswith('.name')}


def _names(section):
  # Returns the sections within a section, with only their names.
  return {
    key: _names(x) if isinstance(x, ConfigDict) else x
    for key, x in section.items()
    if isinstance(x, ConfigDict) or key == 'name'
  }


# Sections that name files of one machine. They are not read from a config.json,
# which may come from a stranger: compiled programs are code too.
NOT_READ = 'compilation_cache', 'average', 'convert', 'report'


def stored(
  content: Mapping[str, object], path: object, skip: Collection[str] = NOT_READ
) -> ConfigDict:
  """Returns the complete config that a config.json contains.

  path: the file, for messages; skip: sections that are not read. A
  'module:attribute' is imported only if the user names it; see `own_parts`.
  """
  try:
    config = ConfigDict(
      {n: x for n, x in tuples(content).items() if n not in skip}
    )
    return completed(config, trusted=False)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise UserError(f'{path} is not the config of a run: {error}') from error


def tuples(tree: Any) -> Any:
  """Returns the content of a config.json with tuples for lists."""
  if isinstance(tree, Mapping):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree


def open_run(
  workdir: str | Path, path: str = '', skip: Collection[str] = NOT_READ
) -> ConfigDict:
  """Returns the complete config of the run in a folder.

  path: the field that names the run; skip: sections that are not read. Raises
  UserError for a folder without a run, and if only a stored config names it.
  """
  if path:
    own_parts.check_paths(path, str(workdir))
  content = folder.read_config(workdir)
  if content is None:
    folder.check_config_kept(workdir)
    raise UserError(prerequisites.missing(path, workdir))
  own_parts.recall(Path(workdir))
  return stored(content, f'{workdir}/config.json', skip)


def of_run(workdir: str | Path, config: ConfigDict, flags: Flags) -> ConfigDict:
  """Returns the config for a mode that uses the run in workdir.

  The run decides the model and the data; `config`, the user's own file, and the
  flags decide how they are used. Raises UserError for flags that would change
  the model.
  """
  run = open_run(workdir, skip=folder.USES)
  ours, theirs = schemas.schema_of(config), schemas.schema_of(run)
  if ours.kind != theirs.kind:
    raise UserError(
      f'{workdir} holds {theirs.kind}, and --config describes {ours.kind}: '
      f'give --config={workdir}'
    )
  merged = copy.deepcopy(run)
  with merged.unlocked(), merged.ignore_type():
    for key in folder.USES:
      if key in config:
        merged[key] = config[key]
  changed = with_flags(merged, flags)
  if 'facts' in run:
    with changed.unlocked():
      changed.facts = run.facts
  free = *folder.FREE, *folder.USES, *folder.COMPUTED_BY, 'data'
  fixed = folder.differences(folder.plain(merged), folder.plain(changed), free)
  if fixed:
    raise UserError(
      f'config.{fixed}: only a training can change this; the model comes from '
      f'{workdir}/config.json'
    )
  return changed


@contextlib.contextmanager
def _in_file(path: str) -> Iterator[None]:
  # Turns any error of a config file into one line that names its place.
  try:
    yield
  except SyntaxError as error:
    raise UserError(
      f'{error.filename}, line {error.lineno}: {error.msg}'
    ) from error
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    own = [x for x in frames if Path(x.filename) == Path(path).absolute()]
    place = f'{path}, line {own[-1].lineno}' if own else path
    hint = ''
    if isinstance(error, AttributeError) and isinstance(error.obj, ConfigDict):
      hint = '; set the field first: sections begin empty'
    raise UserError(
      f'{place}: {type(error).__name__}: {error}{hint}'
    ) from error


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
    raise UserError(
      f'{path}: get_config() returned {type(config).__name__}, not a ConfigDict'
    )
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
      f'--sweep_index={index}: the sweep() of {path} has {len(changes)}, '
      f'0..{len(changes) - 1}'
    )
  for name, _ in flags:
    if name in changes[index]:
      raise UserError(
        f'--config.{name}: the sweep() of {path} changes it as well'
      )
  return [(name, as_text(value)) for name, value in changes[index].items()]


def as_text(value: object) -> str:
  """Returns the text that sets a value by a flag."""
  is_list = isinstance(value, tuple | list)
  return ','.join(map(str, value)) if is_list else str(value)

"""From a config file, a run and flags to one complete config."""

import copy
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.app import own_parts, prerequisites, schemas
from diffusion_jax.app.config import Schema, complete, find, near, override
from diffusion_jax.errors import UserError
from diffusion_jax.app.run import folder

Flags = Sequence[tuple[str, str]]  # (path of a field, its text)


# The command says where files are written and which compiled programs are
# executed, not a run that somebody else may have made.
NOT_OF_A_RUN = 'convert', 'average', 'compilation_cache'


def base_module() -> Any:
  """Imports configs/base.py: of the working folder, or the installed one."""
  try:
    return importlib.import_module('configs.base')
  except ModuleNotFoundError:
    return importlib.import_module('diffusion_jax.configs.base')


def base() -> ConfigDict:
  """Returns the plain fields, of configs/base.py."""
  return base_module().get_config()


def completed(config: ConfigDict, trusted: bool = True) -> ConfigDict:
  """Returns a config with all parameters of its sections; see `complete`.

  trusted: whether the user has written it, so that what it names may be
  imported.
  """
  if trusted:
    own_parts.allow(own_parts.names_in(config))
  return complete(config, schema_of(config), base())


def schema_of(config: ConfigDict) -> Schema:
  """Returns the schema of a config, with the sections of its metrics."""
  schema = schemas.schema_of(config)
  evaluation = config.get('evaluation', ConfigDict())
  own = {
    f'evaluation.{name}': find(schema.metrics, 'evaluation.metrics', name)
    for name in {*evaluation.get('metrics', ()), *evaluation}
    if name in schema.metrics or ':' in name
  }
  return schema._replace(parts={**schema.parts, **own})


def with_flags(config: ConfigDict, flags: Flags) -> ConfigDict:
  """Returns the config as the flags change it, in whatever order they stand.

  A flag that names another choice, such as ('network', 'dit'), comes before the
  flags for its fields. Another objective may need another kind of model:
  sections that this kind does not have are dropped, and the facts of a run if
  its data change.
  """
  own_parts.allow(text for _, text in flags)
  config = completed(config, trusted=False)
  other_data = any(path.partition('.')[0] == 'data' for path, _ in flags)
  if other_data and 'facts' in config:
    with config.unlocked():
      del config.facts
  for path, text in sorted(flags, key=lambda flag: flag[0].count('.')):
    schema = schemas.schema_of(config)
    override(config, path, text, schema.tables)
    if schemas.schema_of(config) is not schema:
      config = _without_other_sections(config)
    config = completed(config, trusted=False)
  return config


def _without_other_sections(config):
  schema, plain = schemas.schema_of(config), base()
  tops = {*schema.choices, *schema.parts, *plain, 'facts'}
  kept = ConfigDict({n: x for n, x in config.items() if n in tops})
  for name, fields in plain.items():
    if isinstance(fields, ConfigDict):  # other parts may be in the section
      kept[name] = ConfigDict({n: kept[name][n] for n in fields})
  return kept


def stored(content: Mapping[str, Any], path: Any) -> ConfigDict:
  """Returns the complete config of the content of a config.json.

  A 'module:attribute' is imported only if the user names it; see `own_parts`.
  """
  config = base()
  try:
    with config.unlocked(), config.ignore_type():
      for key, value in tuples(content).items():
        if key in NOT_OF_A_RUN:
          continue
        if isinstance(value, dict) and key in config:
          config[key].update(ConfigDict(value))
        else:
          config[key] = ConfigDict(value) if isinstance(value, dict) else value
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} is not a config of this version: {error}') from error
  return completed(config, trusted=False)


def tuples(tree: Any) -> Any:
  """Returns the content of a config.json with tuples for lists."""
  if isinstance(tree, Mapping):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree


def open_run(workdir: str | Path, path: str = '') -> ConfigDict:
  """Returns the complete config of the run in a folder.

  path: the field that named the run. Raises UserError if there is no run.
  """
  content = folder.read_config(workdir)
  if content is None:
    folder.check_config_kept(workdir)
    raise UserError(prerequisites.missing(path, workdir))
  return stored(content, f'{workdir}/config.json')


def of_run(workdir: str | Path, config: ConfigDict, flags: Flags) -> ConfigDict:
  """Returns the config for a mode that uses the run in workdir.

  The model comes from the run; how it is used comes from `config`, the user's
  own file, and from the flags, and so do the data of a run that has none.
  Raises UserError for flags that would change the model.
  """
  run = open_run(workdir)
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
  free = (*(f'{key}.' for key in folder.USES), *folder.USES, *folder.COMPUTED_BY)
  if run.data is None and run.get('facts') is not None:
    free = (*free, 'data')
    with changed.unlocked():
      changed.facts = run.facts
  fixed = folder.differences(folder.plain(merged), folder.plain(changed), free)
  if fixed:
    raise UserError(
      f'config.{fixed}: only a training can change this; the model comes from '
      f'{workdir}/config.json'
    )
  return changed


def module_of(path: str) -> Any:
  """Imports a config file; UserError for one that fails or has no get_config."""
  spec = importlib.util.spec_from_file_location(Path(path).stem, path)
  assert spec and spec.loader, path
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f'{error.filename}, line {error.lineno}: {error.msg}') from error
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path} is not a config: it has no function get_config()')
  return module


def from_file(path: str, argument: str = '') -> ConfigDict:
  """Returns get_config() of a file, as it stands; argument: one of VARIANTS."""
  module = module_of(path)
  variants = getattr(module, 'VARIANTS', ())
  if argument and argument not in variants:
    words = ', '.join(('smoke', *variants))
    raise UserError(
      f'{path}:{argument}{near(argument, ("smoke", *variants))}: the argument '
      f'of this config can be {words}'
    )
  try:
    config = module.get_config(argument) if variants else module.get_config()
  except (TypeError, ValueError, KeyError, AttributeError) as error:
    raise UserError(f'{path}: {error}') from error
  if not isinstance(config, ConfigDict):
    raise UserError(f'{path}: get_config() returned no ConfigDict')
  return config

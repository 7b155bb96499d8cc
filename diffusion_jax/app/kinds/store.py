"""Complete configs of files, runs and flags, by the schemas of all kinds of models."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from diffusion_jax import paths
from diffusion_jax.aliases import Tree
from diffusion_jax.app.config import folder, overrides, trust
from diffusion_jax.app.config.overrides import Flags
from diffusion_jax.app.config.schema import Constructor, Schema, parameters
from diffusion_jax.app.config.tree import (
  Node,
  check_one_of,
  check_section,
  convert,
  no_field,
  resolve,
)
from diffusion_jax.app.kinds import diffusion, latent, roles
from diffusion_jax.app.kinds.rules import Row, broken, set_fields
from diffusion_jax.app.kinds.schemas import KINDS
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features
from diffusion_jax.ranges import FlagText
from diffusion_jax.runtime.run_folder import RunFolder


def kind_of(tree: Tree) -> Schema:
  """Returns the schema of a config, which its objective decides.

  An objective from a user's module belongs to a diffusion model, or to the kind whose `own`
  it declares, as a flow map's. Only a module that may be imported is asked.
  """
  name, encoded = tree.get('objective'), tree.get('latent')
  if isinstance(name, Mapping):
    name = name.get('name')
  if isinstance(encoded, Mapping):
    encoded = encoded.get('name', 'autoencoder')
  if str(encoded).lower() not in ('', 'none'):
    return latent.SCHEMA
  if name is None or ':' in str(name):
    declared = trust.is_allowed(str(name)) and _declared_by_own(str(name))
    kinds = (kind for kind in KINDS if kind.own and getattr(declared, kind.own, None))
    return next(kinds, diffusion.SCHEMA)
  every = {n: kind for kind in KINDS for n in kind.tables['objective']}
  check_one_of(list(every), 'objective', name)
  return every[name]


def _declared_by_own(name):
  facts = diffusion.SCHEMA.facts['objective']  # a flow map's and more
  return declared_by(trust.find('objective', name, facts, diffusion.SCHEMA.contract('objective')))


MOST_POINTS = 1000  # the most points of a sweep
_PATH = 'evaluation.metrics'
AUTO = 'auto'  # the metrics that follow from the data, see `metrics_of_data.chosen`


def of_metrics(tree: Tree, schema: Schema) -> dict[str, Constructor]:
  """Returns the constructors of the sections evaluation.<metric>, by path.

  Each metric that is named, or whose section exists, has one; with AUTO also
  the first of the kind. The section of 'module:attribute' is
  evaluation.<attribute>; it exists if the module may be imported.
  """
  section = tree.get('evaluation', {})
  check_section(section, 'evaluation')
  names = convert(section.get('metrics', Evaluation.metrics), tuple[str, ...], _PATH)
  of_any_kind = {AUTO, *(name for kind in KINDS for name in kind.metrics)}
  for name in names:
    if ':' not in name and name not in of_any_kind:
      check_name(schema, name)
  if AUTO in names:
    names += (next(iter(schema.metrics)),)
  constructors = {
    f'evaluation.{name}': constructor
    for name, constructor in schema.metrics.items()
    if name in names or name in section
  }
  for name in sorted(filter(trust.is_allowed, {*names})):
    path = f'evaluation.{name_of(name)}'
    if path in constructors or name_of(name) in schema.metrics:
      raise UserError(f'config.{_PATH}: {name} has the name of another metric; rename it')
    constructors[path] = trust.find(_PATH, name, (), schema.contract(_PATH))
  return constructors


def check_name(schema: Schema, name: str) -> None:
  """Raises UserError for a name that is not a metric, such as kid_dinov2."""
  metric, _, space = name.partition('_')
  if metric in schema.metrics and space in features.EXTRACTORS:
    has_own = 'features' in parameters(schema.metrics[metric])
    field = f'{metric}.features' if has_own else 'features'
    raise UserError(f'config.{_PATH}: {name} is {metric} with --config.evaluation.{field}={space}')
  if name not in schema.metrics and any(name in kind.metrics for kind in KINDS):
    names = ', '.join(schema.metrics)
    raise UserError(f'config.{_PATH}: {schema.kind} has no metric {name!r}: give one of {names}')
  check_one_of(schema.metrics, _PATH, name)


def name_of(name: str) -> str:
  """Returns the name of a metric's section, such as fid or attribute."""
  return name.rpartition(':')[2]


def swept(text: str) -> Flags:
  """Returns the fields of an evaluation.sweep with their lists of values, as flags.

  Raises UserError for text that is not a sweep.
  """
  flags = []
  for item in text.split():
    field, _, values = item.partition('=')
    if not values:
      raise UserError(
        f'config.evaluation.sweep={text!r}: {item} is not field=value,value, '
        "as in 'num_steps=10,20 sampler=ddim,heun'"
      )
    flags.append((f'sampling.{field}', values))
  count = math.prod(len(values.split(',')) for _, values in flags)
  if count > MOST_POINTS:
    what = f'has {count:,} points, and at most {MOST_POINTS:,} can be measured'
    raise UserError(f'config.evaluation.sweep={text:.60}: it {what}')
  return flags


def _more(tree, schema):
  # Returns the constructors of the parts that only some configs have.
  parts, facts = of_metrics(tree, schema), tree.get('facts')
  if facts is not None:
    arrays = (name for name in ('x', 'context') if facts.get(name) is not None)
    parts |= {'facts': Facts, **{f'facts.{name}': ArraySpec for name in arrays}}
  return parts


# The beginnings of all fields that a mode may change of a run.
_FREE_OF_RUN = *roles.FREE, *roles.USES, *roles.COMPUTED_BY, 'data', 'facts'


def completed(tree: Tree | ConfigDict, trusted: bool = True) -> Node:
  """Returns the config with all parameters of its sections.

  trusted: the user wrote the config, so the modules that it names may be
  imported. Otherwise the sections of metrics that cannot be used are left out.
  """
  tree = tree.to_dict() if isinstance(tree, ConfigDict) else tree
  if trusted:
    trust.allow(paths.texts_in(tree))
  schema = kind_of(tree)
  tree = overrides.without_aliases(tree, schema)
  schema = schema._replace(parts={**schema.parts, **_more(tree, schema)})
  if not trusted:
    path = 'evaluation'  # It may have sections of a stranger's metrics.
    usable = {*parameters(schema.parts[path]), *(x.removeprefix(f'{path}.') for x in schema.parts)}
    section = tree.get(path, {})
    others = {n for n, x in section.items() if isinstance(x, Mapping) and not _has_flag(x)}
    tree = {**tree, path: {n: x for n, x in section.items() if n not in others - usable}}
  return resolve(tree, schema)


def _has_flag(section):
  # Returns whether flags set a field of a section.
  return any(isinstance(x, FlagText) for x in section.values())


def allow(names: Iterable[str], flags: Flags) -> None:
  """Allows what the user names by --allow, and by flags."""
  trust.allow_parts(names)
  trust.allow(text for _, text in flags)


def with_flags(config: Node, flags: Flags, trusted: bool = True) -> Node:
  """Returns the config as the flags change it; their order does not matter.

  trusted: the user wrote the flags, so the modules that they name may be
  imported. See `with_fields`.
  """
  if trusted:
    trust.allow(text for _, text in flags)
  changed = _changed(config, [(path, FlagText(text)) for path, text in flags])
  if not trusted:
    sections = {path.partition('.')[0] for path, _ in flags}
    inner = [changed[name] for name in changed if name in sections]
    read = (x.paths_read(paths.READ) for x in inner if isinstance(x, Node))
    trust.check_paths(*itertools.chain(*read))
  return changed


def with_fields(config: Tree, changes: Tree) -> Node:
  """Returns the config with other values of the fields {path: value}.

  An optional part becomes its first choice when one of its fields is set. If
  another objective needs another kind of model, the sections that this kind
  lacks are dropped; if the data change, the facts of a run are dropped.
  """
  return _changed(config, changes.items())


def _changed(config, changes):
  with overrides.as_typed(changes, kind_of(config).aliases):
    return _with_changes(config, changes)


def _with_changes(config, changes):
  before = kind_of(config)
  # Fields that only another kind of model has are not choices of this one.
  upper = [(path, x) for path, x in changes if path.count('.') < 2]
  kind = kind_of(overrides.merge(config, upper, before))
  if kind is not before:
    config = overrides.of_kind(completed(config, trusted=False), kind)
  tree = overrides.merge(config, changes, kind)
  tops = {path.partition('.')[0] for path, _ in changes}
  if 'facts' in tops:
    raise no_field('facts', completed(config, trusted=False), kind)
  if 'data' in tops:
    tree.pop('facts', None)
  for name in {*kind.optional} - {*kind.choices}:  # They are None or of another kind.
    tree.pop(name, None)
  return completed(tree, trusted=False)


def stored(
  content: Mapping[str, object],
  path: object,
  skip: Collection[str] | None = None,
) -> Node:
  """Returns the complete config that a config.json contains.

  path: the file, for messages; skip: sections that are not read, by default
  `roles.NOT_READ`. A 'module:attribute' is imported only if the user names it.
  """
  skip = roles.NOT_READ if skip is None else skip
  try:
    tree = {n: overrides.tuples(x) for n, x in content.items() if n not in skip}
    return completed(tree, trusted=False)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise UserError(f'{path} is not the config of a run: {error}') from error


def open_run(
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
  content = _content(workdir, path, as_saved)
  return stored(content, f'{workdir}/config.json', skip)


def _content(workdir, path='', as_saved=True):
  # Returns the content of a run's config.json; the run's own parts are allowed.
  if path:
    trust.check_paths((path, workdir.name))
  content = folder.read_config(workdir)
  if content is None:
    folder.check_config_kept(workdir)
    raise UserError(folder.missing(path, workdir, roles.PREDECESSORS.get(path, '')))
  if as_saved:
    folder.check_as_saved(workdir, roles.FREE)
  trust.recall(workdir)
  return content


def of_run(workdir: RunFolder, config: Node | None, flags: Flags) -> Node:
  """Returns the config for a mode that uses the run in workdir.

  The run decides the model and the data; `config`, the user's own file, and the
  flags decide how they are used; None: the run and the flags. Raises UserError
  for flags that would change the model.
  """
  content = _content(workdir)
  trust.allow(text for _, text in flags)
  tree = {n: overrides.tuples(x) for n, x in content.items() if n not in roles.NOT_READ}
  try:
    if config is not None:
      kind, ours = kind_of(tree).kind, config.schema.kind
      if ours != kind:
        raise UserError(
          f'{workdir} holds {kind}, and --config describes {ours}: give --config={workdir}'
        )
      tree = {n: x for n, x in tree.items() if n not in roles.USES}
      tree |= {n: x for n, x in config.to_dict().items() if n in roles.USES}
    changed = _changed(tree, [(path, FlagText(text)) for path, text in flags])
    if 'facts' in tree and 'facts' not in changed:  # the flags change the data
      changed = changed.replace(facts=completed(tree, trusted=False).facts)
  except (UserError, KeyError, TypeError, AttributeError, ValueError):
    stored(content, f'{workdir}/config.json')  # The run itself may be the reason.
    raise
  _check_model(workdir, content, changed, flags)
  trust.remember(workdir, changed)
  return changed


def _check_model(workdir, content, changed, flags):
  # Raises UserError for flags that change the model of a run; content: of its config.json.
  before, now = folder.flat(content), changed.flat
  names = tuple(path for path, _ in flags)
  before |= {n: x for n, x in now.items() if n not in before and not n.startswith(names)}
  if fixed := folder.differences(before, now, _FREE_OF_RUN):
    raise UserError(
      f'config.{fixed}: only a training can change this; the model comes from {workdir}/config.json'
    )


def without_idle(
  rows: Sequence[Row], config: Node, flags: Collection[str], workdir: RunFolder, mode: str
) -> Node:
  """Returns the config without what its file sets and a mode does not read.

  rows: the rules of such fields, `idle.IDLE`. A line is printed for each field; fields of the
  flags stay.
  """
  for row, setting in broken(rows, config, mode):
    for field in row.fields:
      is_flag = any(f'{path}.'.startswith(f'{field}.') for path in flags)
      if not is_flag and any(set_fields(config, workdir, [field])):
        print(f'note: config.{field} has no effect with {setting}, and is left out')
        # Without one field another may be idle.
        return without_idle(rows, as_in_run(config, workdir, field), flags, workdir, mode)
  return config


def set_in(config: Node, workdir: RunFolder, path: str) -> str | None:
  """Returns the text of a field's value, None if it is the one that the run has."""
  if folder.plain(as_in_run(config, workdir, path)) == folder.plain(config):
    return None
  value = config.at(overrides.spelled(path, config.schema))
  return overrides.as_text(value.name if isinstance(value, Node) else value)


def as_in_run(config: Node, workdir: RunFolder, path: str) -> Node:
  """Returns the config with a field or a section as the run has it, or else by default."""
  tree, stored = config.to_dict(), folder.read_config(workdir) or {}
  *parents, name = overrides.spelled(path, config.schema).split('.')
  node, section = config, tree
  for parent in parents:
    node, section, stored = node[parent], section[parent], stored.get(parent) or {}
    if node.choice and stored.get('name') != node.choice:
      stored = {}
  section.pop(name, None)
  if name in stored:
    section[name] = overrides.tuples(stored[name])
  return completed(tree, trusted=False)

"""The kinds of models, as the schemas of their configs, and the functions of configs with them."""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from diffusion_jax.aliases import Tree
from diffusion_jax.app.config import folder, store, trust
from diffusion_jax.app.config.schema import ANY, Constructor, Schema, parameters
from diffusion_jax.app.config.store import (
  Flags,
  allow,
  as_flags,
  as_text,
  from_file,
  merge,
  module_of,
  of_kind,
  spelled,
  spelled_once,
  sweep,
  tuples,
)
from diffusion_jax.app.config.tree import Node, check_one_of, check_section, convert
from diffusion_jax.app.kinds import (
  autoencoders,
  bridges,
  classifier,
  diffusion,
  discrete,
  few_steps,
  latent,
  roles,
)
from diffusion_jax.app.kinds.rules import Row, broken, set_fields
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features

# A module for each kind; its `model` has the maker, which `run.weights.make_model` calls.
MODULES = latent, diffusion, few_steps, bridges, classifier, autoencoders, discrete
KINDS = tuple(module.SCHEMA for module in MODULES)


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
    constructors[path] = trust.find(_PATH, name, (), ANY)
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


REGISTRY = store.Registry(
  kind_of=kind_of,
  more=_more,
  growing='evaluation',
  uses=roles.USES,
  free=(*roles.FREE, *roles.USES, *roles.COMPUTED_BY, 'data', 'facts'),
  between_starts=roles.FREE,
  not_read=roles.NOT_READ,
  needed=roles.PREDECESSORS,
)
completed = functools.partial(store.completed, REGISTRY)
with_flags = functools.partial(store.with_flags, REGISTRY)
with_fields = functools.partial(store.with_fields, REGISTRY)
stored = functools.partial(store.stored, REGISTRY)
open_run = functools.partial(store.open_run, REGISTRY)
of_run = functools.partial(store.of_run, REGISTRY)


def without_idle(
  rows: Sequence[Row], config: Node, flags: Collection[str], workdir: Path, mode: str
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


def set_in(config: Node, workdir: Path, path: str) -> str | None:
  """Returns the text of a field's value, None if it is the one that the run has."""
  if folder.plain(as_in_run(config, workdir, path)) == folder.plain(config):
    return None
  value = config.at(spelled(path, config.schema))
  return as_text(value.name if isinstance(value, Node) else value)


def as_in_run(config: Node, workdir: Path, path: str) -> Node:
  """Returns the config with a field or a section as the run has it, or else by default."""
  tree, stored = config.to_dict(), folder.read_config(workdir) or {}
  *parents, name = spelled(path, config.schema).split('.')
  node, section = config, tree
  for parent in parents:
    node, section, stored = node[parent], section[parent], stored.get(parent) or {}
    if node.choice and stored.get('name') != node.choice:
      stored = {}
  section.pop(name, None)
  if name in stored:
    section[name] = tuples(stored[name])
  return completed(tree, trusted=False)

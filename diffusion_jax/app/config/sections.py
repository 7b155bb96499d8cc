"""The sections evaluation.<metric> of a config."""

from diffusion_jax.aliases import Tree
from diffusion_jax.app.config import kinds, own
from diffusion_jax.app.config.errors import check_one_of, check_section, convert
from diffusion_jax.app.config.fields import Evaluation
from diffusion_jax.app.config.tree import Constructor, Schema, parameters
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features
from diffusion_jax.ranges import FlagText

_PATH = 'evaluation.metrics'


def of_metrics(tree: Tree, schema: Schema) -> dict[str, Constructor]:
  """Returns the constructors of the sections evaluation.<metric>, by path.

  Each metric that is named, or whose section exists, has one. The section of
  'module:attribute' is evaluation.<attribute>; it exists if the module may be
  imported.
  """
  evaluation, names = _evaluation(tree)
  of_any_kind = {name for kind in kinds.KINDS for name in kind.metrics}
  for name in names:
    if ':' not in name and name not in of_any_kind:
      check_name(schema, name)
  constructors = {
    f'evaluation.{name}': schema.metrics[name]
    for name in schema.metrics
    if name in names or name in evaluation
  }
  for name in sorted(filter(own.is_allowed, {*names})):
    path = f'evaluation.{name_of(name)}'
    if path in constructors or name_of(name) in schema.metrics:
      raise UserError(
        f'config.{_PATH}: {name} has the name of another metric; rename it'
      )
    constructors[path] = own.find(_PATH, name, ())
  return constructors


def check_name(schema: Schema, name: str) -> None:
  """Raises UserError for a name that is not a metric, such as kid_dinov2."""
  metric, _, space = name.partition('_')
  if metric in schema.metrics and space in features.EXTRACTORS:
    has_own = 'features' in parameters(schema.metrics[metric])
    field = f'{metric}.features' if has_own else 'features'
    raise UserError(
      f'config.{_PATH}: {name} is {metric} with '
      f'--config.evaluation.{field}={space}'
    )
  check_one_of(schema.metrics, _PATH, name)


def _evaluation(tree):
  # Returns the section, and the names of its metrics, which may be a flag.
  section = tree.get('evaluation', {})
  check_section(section, 'evaluation')
  metrics = section.get('metrics', Evaluation.metrics)
  return section, convert(metrics, tuple[str, ...], _PATH)


def without_others(tree: Tree, schema: Schema) -> Tree:
  """Returns nested dicts without sections of metrics that cannot be used.

  A stored config may name metrics that may not be imported; its run can be used
  without them. The names of fields that flags set are kept.
  """
  section, metrics = _evaluation(tree)
  names = {*parameters(Evaluation), *schema.metrics}
  names |= {name_of(name) for name in filter(own.is_allowed, metrics)}
  kept = {n: x for n, x in section.items() if n in names or _is_flag(x)}
  return {**tree, 'evaluation': kept}


def _is_flag(value):
  # Returns whether flags set a field that has no value besides them.
  values = value.values() if isinstance(value, dict) else [value]
  return any(isinstance(x, FlagText) for x in values)


def name_of(name: str) -> str:
  """Returns the name of a metric's section, such as fid or attribute."""
  return name.rpartition(':')[2]

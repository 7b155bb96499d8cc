"""The metrics that config.evaluation names, and the scores of samples."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diffusion_jax.app import sample_inputs
from diffusion_jax.app.config import kinds, own
from diffusion_jax.app.config.errors import (
  check_one_of,
  check_section,
  convert,
  from_config,
)
from diffusion_jax.app.config.fields import Evaluation
from diffusion_jax.app.config.tree import Constructor, Schema, find, parameters
from diffusion_jax.app.run import folder
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, references, spaces
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import EXTRACTED, Arrays, missing
from diffusion_jax.metrics.spaces import Named, Space
from diffusion_jax.metrics.table import SHORT, split_name
from diffusion_jax.ranges import Text

if TYPE_CHECKING:
  from diffusion_jax.app.models.model import Model

_PATH = 'evaluation.metrics'


def sections(tree: Mapping[str, Any], schema: Schema) -> dict[str, Constructor]:
  """Returns the constructors of the sections evaluation.<metric>, by path.

  Each metric that is named, or whose section exists, has one. The section of
  'module:attribute' is evaluation.<attribute>; it exists if the module may be
  imported.
  """
  evaluation, metrics = _evaluation(tree)
  names = {split_name(name, schema.metrics)[0] for name in metrics}
  of_any_kind = {name for kind in kinds.KINDS for name in kind.metrics}
  for name in metrics:
    if ':' not in name and not of_any_kind & {name, split_name(name)[0]}:
      check_one_of((*schema.metrics, *SHORT), _PATH, name)
  constructors = {
    f'evaluation.{name}': schema.metrics[name]
    for name in schema.metrics
    if name in names or name in evaluation
  }
  for name in sorted(filter(own.is_allowed, names)):
    path = f'evaluation.{_section(name)}'
    if path in constructors or _section(name) in schema.metrics:
      raise UserError(
        f'config.{_PATH}: {name} has the name of another metric; rename it'
      )
    constructors[path] = own.find(_PATH, name, ())
  return constructors


def _evaluation(tree):
  # Returns the section, and the names of its metrics, which may be a flag.
  section = tree.get('evaluation', {})
  check_section(section, 'evaluation')
  metrics = section.get('metrics', Evaluation.metrics)
  return section, convert(metrics, tuple[str, ...], _PATH)


def without_others(
  tree: Mapping[str, Any], schema: Schema
) -> Mapping[str, Any]:
  """Returns nested dicts without sections of metrics that cannot be used.

  A stored config may name metrics that may not be imported; its run can be used
  without them. The names of fields that flags set are kept.
  """
  section, metrics = _evaluation(tree)
  names = {*parameters(Evaluation), *schema.metrics}
  names |= {_section(name) for name in filter(own.is_allowed, metrics)}
  kept = {n: x for n, x in section.items() if n in names or _is_flag(x)}
  return {**tree, 'evaluation': kept}


def _is_flag(value):
  # Returns whether flags set a field that has no value besides them.
  values = value.values() if isinstance(value, dict) else [value]
  return any(isinstance(x, Text) for x in values)


def _section(name):
  return name.rpartition(':')[2]


def named(model: 'Model', **parameters: object) -> list[Named]:
  """Makes the metrics that evaluation.metrics names.

  parameters: values for the metrics that have such a parameter.
  """
  c, rows = model.config.evaluation, model.schema.metrics
  check_one_of(features.EXTRACTORS, 'evaluation.features', c.features)
  result = []
  for name in c.metrics:
    key, own = split_name(name, rows)
    if ':' not in key:
      check_one_of((*rows, *SHORT), _PATH, key)
    constructor, section = find(rows, _PATH, key), _section(key)
    fields = {n: x for n, x in c[section].items() if x is not None}
    fields |= {n: x for n, x in parameters.items() if n in fields}
    with from_config(f'evaluation.{section}'):
      metric = constructor(**fields)
    extracted = EXTRACTED.intersection(metric.needs)
    space = (own or c.features) if extracted else ''
    result.append(Named(section, space, metric))
  return result


def of_samples(model: 'Model', **parameters: object) -> list[Named]:
  """Makes the metrics of generated images that evaluation.metrics names."""
  every = named(model, **parameters)
  return [each for each in every if each.metric.measure is None]


def higher_is_better(model: 'Model') -> dict[str, bool]:
  """Returns, for each score of generated images, whether more is better."""
  return {
    each.score_name(score): higher
    for each in of_samples(model)
    for score, higher in each.metric.scores.items()
  }


def prepare(model: 'Model', metrics: list[Named]) -> dict[str, Space]:
  """Makes the extractors of metrics, and reads or computes their references.

  Raises UserError for a metric whose inputs are not available.
  """
  c = model.config.evaluation
  other = 'test' if c.reference == 'train' else 'train'
  check_needs(model, metrics)
  result = {}
  for name in dict.fromkeys(x.features for x in metrics if x.features):
    extractor = make_extractor(model, name)
    reference, protocol = load_reference(model, extractor, c.reference)
    needs = {n for x in metrics if x.features == name for n in x.metric.needs}
    if 'held_out' in needs:
      held_out, _ = load_reference(model, extractor, other)
      reference = {**reference, 'held_out': held_out['features']}
    result[name] = Space(extractor, reference, protocol)
  return result


def make_extractor(model: 'Model', name: str) -> Extractor:
  """Returns the extractor of a name, with the weights of the config."""
  c = model.config.evaluation
  own.check_paths('evaluation.weights', c.weights)
  with from_config('evaluation'):
    return features.make(name, c.weights, c.batch_size)


def load_reference(
  model: 'Model', extractor: Extractor, split: str
) -> tuple[Arrays, dict[str, Any]]:
  """Returns the features of real images, and the settings they depend on."""
  data = folder.plain(model.config)['data']
  data.pop('data_dir', None)
  about = {'data': data, 'split': split}
  size = model.config.evaluation.batch_size
  with from_config('evaluation'):
    return references.load(model.source(split), about, extractor, size)


def check_needs(model: 'Model', metrics: list[Named]) -> None:
  """Raises UserError for a metric whose inputs these samples do not have."""
  given = {'images', 'held_out', *sample_inputs.stored_names(model)}
  for each in metrics:
    needs = set(each.metric.needs) - given
    if needs & EXTRACTED:
      needs -= outputs(model, each.features)
    for need in sorted(needs):
      hint = f': set config.evaluation.features, now {each.features}'
      hint = hint if need in EXTRACTED else ''
      raise UserError(f'config.{_PATH}: {missing(each.name, need)}{hint}')


def outputs(model: 'Model', name: str) -> set[str]:
  """Returns the names of the arrays that an extractor gives."""
  if name in features.PUBLISHED:  # known without reading the weights
    return set(features.PUBLISHED[name])
  extractor, split = (
    make_extractor(model, name),
    model.config.evaluation.reference,
  )
  with from_config('evaluation'):
    pictures = references.real_images(model.source(split), 1)
    return set(extractor.extract(next(pictures)))


def scorer(model: 'Model') -> Callable[[Arrays], dict[str, float]]:
  """Returns {'images': uint8 [N, H, W, C], ...} -> the values of all scores.

  There are no bootstrap errors, which would need many more distances.
  """
  metrics = of_samples(model, num_draws=0)
  by_name = prepare(model, metrics)
  size = model.config.evaluation.batch_size

  def values(samples: Arrays) -> dict[str, float]:
    pictures = samples['images']
    batches = [pictures[i : i + size] for i in range(0, len(pictures), size)]
    extracted = {
      name: features.join(features.each(space.extractor, batches))
      for name, space in by_name.items()
    }
    with from_config(_PATH):
      scores = spaces.score(metrics, by_name, samples, extracted)
    return {x.name: x.estimate.value for x in scores}

  return values

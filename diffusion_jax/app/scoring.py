"""The metrics that config.evaluation names, and the scores of samples."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json, Tree
from diffusion_jax.app import images, sample_inputs
from diffusion_jax.app.config import kinds, own
from diffusion_jax.app.config.errors import (
  check_one_of,
  check_section,
  convert,
  from_config,
)
from diffusion_jax.app.config.fields import Evaluation
from diffusion_jax.app.config.tree import Constructor, Schema, find, parameters
from diffusion_jax.app.model import Model
from diffusion_jax.app.run import folder
from diffusion_jax.data import npz
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, references
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import (
  EXTRACTED,
  Arrays,
  ModelMetric,
  SampleMetric,
  Score,
  missing,
)
from diffusion_jax.metrics.values import Standard, standard_of
from diffusion_jax.ranges import FlagText

_PATH = 'evaluation.metrics'


class Scored(NamedTuple):
  """A metric of samples in a feature space, '' if it needs none.

  suffix: of the names of its scores, such as _dinov2.
  """

  name: str
  metric: SampleMetric
  space: str
  suffix: str


class Space(NamedTuple):
  """An extractor, and its features of real data with their protocol.

  The space '' has no extractor: its reference has `values`.
  """

  extractor: Extractor | None
  reference: Arrays
  protocol: Json

  def of(self, batches: Iterable[np.ndarray]) -> Arrays:
    """Returns the features of batches of samples."""
    if self.extractor is None:
      return {}
    return features.join(features.each(self.extractor, batches))


def sections(tree: Tree, schema: Schema) -> dict[str, Constructor]:
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
    path = f'evaluation.{_section(name)}'
    if path in constructors or _section(name) in schema.metrics:
      raise UserError(
        f'config.{_PATH}: {name} has the name of another metric; rename it'
      )
    constructors[path] = own.find(_PATH, name, ())
  return constructors


def check_name(schema: Schema, name: str) -> None:
  """Raises UserError for a name that is no metric, such as kid_dinov2."""
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
  names |= {_section(name) for name in filter(own.is_allowed, metrics)}
  kept = {n: x for n, x in section.items() if n in names or _is_flag(x)}
  return {**tree, 'evaluation': kept}


def _is_flag(value):
  # Returns whether flags set a field that has no value besides them.
  values = value.values() if isinstance(value, dict) else [value]
  return any(isinstance(x, FlagText) for x in values)


def _section(name):
  return name.rpartition(':')[2]


def metrics_of(
  model: Model, **values: object
) -> dict[str, SampleMetric | ModelMetric]:
  """Makes the metrics that evaluation.metrics names, by their sections.

  values: for the metrics that have such a parameter.
  """
  c, made = model.config.evaluation, {}
  for name in c.metrics:
    if ':' not in name:
      check_name(model.schema, name)
    constructor = find(model.schema.metrics, _PATH, name)
    section = _section(name)
    fields = {n: x for n, x in c[section].items() if x is not None}
    fields |= {n: x for n, x in values.items() if n in fields}
    with from_config(f'evaluation.{section}'):
      made[section] = constructor(**fields)
  return made


def of_models(model: Model) -> dict[str, ModelMetric]:
  """Makes the metrics of real images that evaluation.metrics names."""
  made = metrics_of(model).items()
  return {name: x for name, x in made if isinstance(x, ModelMetric)}


def of_samples(model: Model, **values: object) -> list[Scored]:
  """Makes the metrics of generated images, one for each feature space.

  A metric whose section has a field `features` is computed in each of them,
  or in evaluation.features, and its scores are named with them.
  """
  c, scored = model.config.evaluation, []
  usual = space_of(model)
  check_one_of(features.EXTRACTORS, 'evaluation.features', usual)
  for name, metric in metrics_of(model, **values).items():
    if not isinstance(metric, SampleMetric):
      continue
    if EXTRACTED.isdisjoint(metric.needs):
      scored.append(Scored(name, metric, '', ''))
      continue
    for space in metric.features or (usual,):
      check_one_of(features.EXTRACTORS, f'evaluation.{name}.features', space)
      suffix = f'_{space}' if 'features' in c[name] else ''
      scored.append(Scored(name, metric, space, suffix))
  return scored


def space_of(model: Model) -> str:
  """Returns the features of metrics that name none."""
  usual = 'inception' if model.facts.x.is_picture else 'values'
  return model.config.evaluation.features or usual


def is_of_pairs(each: Scored) -> bool:
  """Returns whether a metric needs several draws for each held-out pair."""
  return not {'draws', 'log_q'}.isdisjoint(each.metric.needs)


def higher_is_better(model: Model) -> dict[str, bool]:
  """Returns, for each score of generated images, whether more is better."""
  return {
    f'{score}{each.suffix}': higher
    for each in of_samples(model)
    for score, higher in each.metric.scores.items()
  }


def prepare(model: Model, metrics: list[Scored]) -> dict[str, Space]:
  """Makes the extractors of metrics, and reads or computes their references.

  Raises UserError for a metric whose inputs are not available.
  """
  c = model.config.evaluation
  other = 'test' if c.reference == 'train' else 'train'
  check_needs(model, metrics)
  spaces = {}
  if any('values' in x.metric.needs for x in metrics):
    values = reference_values(model)
    spaces[''] = Space(None, {'values': values}, {})
  for name in dict.fromkeys(x.space for x in metrics if x.space):
    extractor = make_extractor(model, name)
    reference, protocol = load_reference(model, extractor, c.reference)
    here = [x.metric for x in metrics if x.space == name]
    if c.floor or any('held_out' in metric.needs for metric in here):
      held_out, _ = load_reference(model, extractor, other)
      reference = {**reference, 'held_out': held_out['features']}
    spaces[name] = Space(extractor, reference, protocol)
  return spaces


def make_extractor(model: Model, name: str) -> Extractor:
  """Returns the extractor of a name, with the weights of the config."""
  c = model.config.evaluation
  own.check_paths('evaluation.weights', c.weights)
  with from_config('evaluation'):
    if name != 'values':
      return features.make(name, c.weights, c.batch_size)
    x = model.facts.x
    standard = Standard(np.asarray(x.mean), np.asarray(x.std))
    if x.levels:
      standard = standard_of(reference_values(model))
    return features.make(name, standard=standard)


def reference_values(model: Model) -> np.ndarray:
  """Returns what samples are compared to, as files have it, [N, ...].

  At most references.LIMIT examples of evaluation.reference, evenly spaced.
  """
  source = reference_source(model, model.config.evaluation.reference)
  count = min(len(source), references.LIMIT)
  index = np.linspace(0, len(source) - 1, count).astype(int)
  with from_config('data'):
    return references.as_written(source, source.read(index)['x'])


def reference_source(model: Model, name: str) -> Source:
  """Returns a split of the data, or the examples of a file."""
  if name in ('train', 'test'):
    return images.source_of(model.config, name)
  own.check_paths('evaluation.reference', name)
  with from_config('evaluation.reference'):
    source = npz.npz(name)
  if source.facts.x.shape != tuple(model.facts.x.shape):
    shape = ', '.join(map(str, model.facts.x.shape))
    raise UserError(
      f'config.evaluation.reference: {name} has examples of the shape '
      f'{list(source.facts.x.shape)}, and [{shape}] is needed'
    )
  return source


def load_reference(
  model: Model, extractor: Extractor, split: str
) -> tuple[Arrays, Json]:
  """Returns the features of real images, and the settings they depend on."""
  data = folder.plain(model.config)['data']
  data.pop('data_dir', None)
  about = {'data': data, 'split': split}
  size = model.config.evaluation.batch_size
  with from_config('evaluation'):
    return references.load(
      reference_source(model, split), about, extractor, size
    )


def check_needs(model: Model, metrics: list[Scored]) -> None:
  """Raises UserError for a metric whose inputs these samples do not have."""
  given = {'images', 'held_out', 'values', *sample_inputs.stored_names(model)}
  if model.conditioning.context is not None:
    given |= {'draws', 'truth', 'context', 'log_q'}
  for each in metrics:
    arrays = features.ARRAYS.get(each.space, ())
    for need in sorted({*each.metric.needs} - given - {*arrays}):
      field = f'{each.name}.features' if each.metric.features else 'features'
      hint = f': set config.evaluation.{field}, now {each.space}'
      hint = hint if need in EXTRACTED else ''
      raise UserError(f'config.{_PATH}: {missing(each.name, need)}{hint}')


def score(
  metrics: list[Scored],
  spaces: Mapping[str, Space],
  samples: Arrays,
  extracted: Mapping[str, Arrays],
) -> list[Score]:
  """Returns the scores of samples.

  samples: images, labels and so on; extracted: the features of the images, by
  the name of their space. Raises UserError for what a metric refuses.
  """
  scores = []
  for _, metric, space, suffix in metrics:
    arrays = {**samples, **extracted.get(space, {})}
    reference = spaces[space].reference if space in spaces else {}
    with from_config(_PATH):
      found = metric.compute(arrays, reference)
    scores += [x._replace(name=f'{x.name}{suffix}') for x in found]
  return scores


def floor(
  metrics: list[Scored], spaces: Mapping[str, Space], count: int
) -> list[Score]:
  """Returns the scores of `count` held-out real images in place of samples.

  They are of the metrics that compare features with the reference's. The
  images are drawn with a fixed key: the first ones may be others than the rest,
  as MNIST's first test images are.
  """
  compared = [x for x in metrics if x.metric.needs == ('features',)]
  real = {}
  for name, space in spaces.items():
    if not name:
      continue
    held_out = space.reference['held_out']
    chosen = np.random.default_rng(0).permutation(len(held_out))[:count]
    real[name] = {'features': held_out[chosen]}
  return score(compared, spaces, {}, real)


def scorer(model: Model) -> Callable[[Arrays], dict[str, float]]:
  """Returns {'values': samples as files have them} -> the values of all scores.

  There are no bootstrap errors, which would need many more distances.
  """
  metrics = [x for x in of_samples(model, num_draws=0) if not is_of_pairs(x)]
  spaces = prepare(model, metrics)
  size = model.config.evaluation.batch_size

  def values(samples: Arrays) -> dict[str, float]:
    x = samples['values']
    batches = [x[i : i + size] for i in range(0, len(x), size)]
    extracted = {name: space.of(batches) for name, space in spaces.items()}
    if model.facts.x.is_picture:
      samples = {**samples, 'images': x}
    scores = score(metrics, spaces, samples, extracted)
    return {x.name: x.estimate.value for x in scores}

  return values

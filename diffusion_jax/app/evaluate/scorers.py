"""The metrics that config.evaluation names, and the scores of samples."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.tree import Node, check_one_of, find, from_config
from diffusion_jax.app.evaluate import held_out_pairs
from diffusion_jax.app.evaluate.metrics_of_data import chosen
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.inputs.conditions import Compared
from diffusion_jax.app.kinds import roles, sections, store
from diffusion_jax.app.kinds.laws import moments_of
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import mixed, npz, tables
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.data.sources import Source, in_proportion, labels_of, some_of
from diffusion_jax.data.spec import Facts, misfits, without_padding
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, published, references, scoring
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.forecasts import LAW
from diffusion_jax.metrics.metric import (
  EXTRACTED,
  Arrays,
  ModelMetric,
  SampleMetric,
  missing,
)
from diffusion_jax.metrics.scoring import References, Scored, Space
from diffusion_jax.metrics.vectors import Standard, standard_of

_PATH = 'evaluation.metrics'


# Of evaluation.metrics by its section: of real examples, or of samples in each feature space.
Metric = ModelMetric | list[Scored]
# The arrays that samples are compared to; all others that a metric needs are the samples' own.
OF_REFERENCE = {'features', 'spatial', 'values', 'images', 'held_out'}


def constructors_of(model: Model) -> dict[str, Callable[..., SampleMetric | ModelMetric]]:
  """Returns what makes the metrics that evaluation.metrics names, by their sections."""
  made = {}
  for name in chosen(model).config.evaluation.metrics:
    if ':' not in name:
      store.check_name(model.schema, name)
    contract = model.schema.contract(_PATH)
    made[store.name_of(name)] = find(model.schema.metrics, _PATH, name, contract=contract)
  return made


def metrics_of(model: Model, **values: object) -> dict[str, SampleMetric | ModelMetric]:
  """Makes the metrics that evaluation.metrics names, by their kinds.

  values: for the metrics that have such a parameter.
  """
  c, made = chosen(model).config.evaluation, {}
  own = {store.name_of(name): name for name in c.metrics if ':' in name}
  for section, constructor in constructors_of(model).items():
    fields = {n: x for n, x in c[section].items() if x is not None}
    fields |= {n: x for n, x in values.items() if n in fields}
    with from_config(f'evaluation.{section}'):
      made[section] = constructor(**fields)
    if section in own:
      contract = model.schema.contract(_PATH)
      trust.check_made(_PATH, own[section], made[section], contract)
      with from_config(f'{_PATH}={own[section]!r}'):
        scoring.check_own(section, made[section], model.facts.x)
  return made


def named(model: Model) -> dict[str, Metric]:
  """Makes the metrics that evaluation.metrics names, by the names of their sections."""
  scored = of_samples(model)
  return {
    name: x if isinstance(x, ModelMetric) else [each for each in scored if each.name == name]
    for name, x in metrics_of(model).items()
  }


def by_evaluate_alone(model: Model) -> list[str]:
  """Returns the metrics that a training does not measure: of examples, and of held-out pairs."""
  return [
    name
    for name, x in named(model).items()
    if isinstance(x, ModelMetric) or scoring.is_of_pairs(x[0])
  ]


def of_samples(model: Model, **values: object) -> list[Scored]:
  """Makes the metrics of generated images, one for each feature space.

  A metric is computed in each of its `features`, or in evaluation.features, and
  its scores are named with them unless it has one space only, as FID has.
  """
  model, scored = chosen(model), []
  c = model.config.evaluation
  usual = c.features or default_features(model)
  check_one_of(features.EXTRACTORS, 'evaluation.features', usual)
  for name, metric in metrics_of(model, **values).items():
    if not isinstance(metric, SampleMetric):
      continue
    if EXTRACTED.isdisjoint(metric.needs):
      scored.append(Scored(name, metric))
      continue
    for space in metric.features or (usual,):
      check_one_of(features.EXTRACTORS, f'evaluation.{name}.features', space)
      is_of_one = metric.features and 'features' not in c[name]  # as FID is
      suffix = '' if is_of_one else f'_{space}'
      scored.append(Scored(name, metric, space, suffix))
  return scored


def default_features(model: Model) -> str:
  """Returns the feature space of metrics without features of their own.

  For pictures the judge of the data set in the package, or else a published network.
  """
  x, data = model.facts.x, sections.of_examples(model.config.data)
  if not x.is_picture:
    return 'values'
  if data is None or data.get('quarter_turns'):
    return 'inception'
  return features.JUDGES.get((data.name, x.levels), 'inception')


def higher_is_better(model: Model) -> dict[str, bool]:
  """Returns, for each score of generated images, whether more is better."""
  return {
    f'{score}{each.suffix}': higher
    for each in of_samples(model)
    if not scoring.is_of_pairs(each)
    for score, higher in each.metric.scores.items()
  }


def check(
  model: Model, metrics: list[Scored]
) -> tuple[dict[str, Extractor], dict[str, tuple[ImageSet, Json, set[str]]]]:
  """Makes the extractors of metrics, and reads published statistics (`published.read`).

  Both are by the names of their spaces. Raises UserError for a metric whose
  inputs are not available.
  """
  check_needs(model, metrics)
  c, space = model.config.evaluation, space_of_statistics(model, metrics)
  of_examples = (x for x in metrics if is_of_reference(x) and x.space != space)
  if any(of_examples) or any(needs_held_out(c, x) for x in metrics):
    reference_source(model, examples(c))
  names = dict.fromkeys(x.space for x in metrics if x.space)
  extractors, stored = {name: make_extractor(model, name) for name in names}, {}
  for name, extractor in extractors.items():
    judges = any('predicted' in x.metric.needs for x in metrics if x.space == name)
    check_judge(model, name, extractor.facts, judges)
  if space is not None:
    here = {x.name: x.metric for x in metrics if x.space == space}
    with from_config('evaluation.reference'):
      stored[space] = published.read(c.reference, extractors[space], here, model.facts.x.shape)
  return extractors, stored


def check_judge(model: Model, name: str, theirs: Facts | None, judges: bool) -> None:
  """Raises UserError for a classifier of other images or, if it `judges` classes, of others."""
  # Files have pictures of any number of levels as 0..255.
  unread = 'context', 'levels', *(() if judges else ('num_classes', 'class_names'))
  for fact, one, other in misfits(theirs, model.facts, unread) if theirs else ():
    raise UserError(
      f'config.evaluation.weights: in the data of this {name} {fact} is {one!r}, and here '
      f'{other!r}: give a classifier that was trained on such data'
    )


def has_statistics(c: Node) -> bool:
  """Returns whether evaluation.reference is a file of published mu and sigma."""
  if c.reference in ('train', 'test'):
    return False
  with contextlib.suppress(OSError, ValueError):
    names = {*npz.names_of(c.reference)}
    return {'mu', 'sigma'} <= names and 'x' not in names
  return False


def examples(c: Node) -> str:
  """Returns the split or the file of examples that samples are compared to."""
  return 'train' if has_statistics(c) else c.reference


def space_of_statistics(model: Model, metrics: list[Scored]) -> str | None:
  """Returns the feature space of published statistics, None without them.

  The Frechet distances are in it. Raises UserError if they are in several.
  """
  c = model.config.evaluation
  if not has_statistics(c):
    return None
  spaces = list(dict.fromkeys(x.space for x in metrics if x.metric.by_statistics))
  if len(spaces) != 1:
    raise UserError(
      f'config.evaluation.reference={c.reference} is of one network, and evaluation.metrics have '
      f'Frechet distances in {" and ".join(map(str, spaces)) or "none"}: name fid, or fd in one'
    )
  return spaces[0]


def prepare(model: Model, metrics: list[Scored]) -> References:
  """Makes the extractors of metrics, and reads or computes their references.

  Raises UserError as `check`.
  """
  c, values, spaces = model.config.evaluation, names_of(model), {}
  labels = None
  other = 'test' if examples(c) == 'train' else 'train'
  extractors, stored = check(model, metrics)
  if any({'values', 'images'} & {*x.metric.needs} for x in metrics):
    values |= dict.fromkeys(('values', 'images'), reference_values(model, examples(c)))
  if any('others' in x.metric.needs for x in metrics):
    values |= other_values(model, other)
  for name, extractor in extractors.items():
    if name in stored:
      images, protocol, lacks = stored[name]
      black = np.zeros((1, *model.facts.x.shape), np.uint8)
      with from_config('evaluation.reference'):
        published.check_sizes(images, extractor.extract(black))
        reference = published.arrays_of(images, protocol, extractor, lacks, c.batch_size)
      print(f'fd and fid are against {protocol["origin"]}')
    elif any(is_of_reference(x) for x in metrics if x.space == name):
      reference, protocol = load_reference(model, extractor, examples(c))
    else:
      reference, protocol = {}, {}
    held_out: Json = {}
    if any(needs_held_out(c, x) for x in metrics if x.space == name):
      others, held_out = load_reference(model, extractor, other)
      reference = {**reference, 'held_out': others['features']}
      if any(x.metric.needs == scoring.JUDGED for x in metrics if x.space == name):
        source = reference_source(model, other)
        reference['judged'] = references.classes(source, extractor, c.batch_size)
      labels = held_out_labels(model, other) if labels is None else labels
    spaces[name] = Space(extractor, reference, protocol, held_out)
  return References(values, spaces, labels)


def held_out_labels(model: Model, split: str) -> np.ndarray | None:
  """Returns the labels of the examples of a split whose features `references.load` returns."""
  if not (conditions.takes_labels(model) or 'labels' in model.draws):
    return None
  source = reference_source(model, split)
  with from_config('data'):
    labels = labels_of(source)
  return None if labels is None else labels[references.kept_rows(len(source))]


class Classes(NamedTuple):
  """How many examples of each class, [K], a split or a file has."""

  name: str
  counts: np.ndarray


def compared(model: Model, classes: Classes | None) -> Compared:
  """Returns what samples that metrics compare are conditioned on; classes: `classes_of`.

  They have these frequencies, or the classes of the held-out examples whose context or text
  they have. Where neither is known, and with sampling.labels, the classes are in turn.
  """
  if not has_classes(model):
    return Compared()
  given = model.config.sampling.labels
  if not given and (held_out := conditions.held_out_labels(model)):
    return Compared(held_out, 'with the classes, too, of held-out examples')
  if classes is not None and not given:
    labels = functools.partial(in_proportion, classes.counts)
    return Compared(labels, f'with the class frequencies of {classes.name}')
  rows = conditions.Labels(model).in_turn()
  which = f'the classes {", ".join(map(str, given))}' if given else 'all classes'
  words = f'of class {given[0]}' if len(given) == 1 else f'of {which} in turn'
  return Compared(lambda n: np.resize(rows, n), words, True)


def follows_reference(model: Model) -> bool:
  """Returns whether samples that metrics compare have the class frequencies of the reference."""
  is_free = has_classes(model) and not model.config.sampling.labels
  return is_free and conditions.held_out_labels(model) is None


def has_classes(model: Model) -> bool:
  """Returns whether samples are drawn for classes, which are not those of test images."""
  return conditions.takes_labels(model) and model.conditioning.image is None


def with_classes(models: Sequence[Model]) -> Model:
  """Returns the first model whose samples have classes: a classifier may guide some only."""
  return next(filter(has_classes, models), models[0])


def classes_of(model: Model) -> Classes | None:
  """Returns the classes of evaluation.reference, of the training split if a file has no labels.

  None where samples have no classes, for published statistics, which may be of data that
  are not here, and for labels that cannot be read. Raises UserError for labels of other classes.
  """
  c, num_classes = model.config.evaluation, model.facts.num_classes
  if not has_classes(model):
    return None
  try:
    name, labels = _labels_of_reference(model, c.reference)
  except UserError:  # A metric that needs these examples says why.
    return None
  if labels is None:
    return None
  if labels.max() >= num_classes:
    raise UserError(
      f'config.evaluation.reference={c.reference}: {name} has labels 0..{labels.max()}, and the '
      f'classes of this run are 0..{num_classes - 1}'
    )
  return Classes(name, np.bincount(labels, minlength=num_classes))


def _labels_of_reference(model, name):
  # Returns (what the labels are of, the labels or None).
  is_file, facts = name not in ('train', 'test'), model.facts
  with from_config('evaluation.reference'):
    if is_file:
      column, is_table = (model.config.data or {}).get('label'), tables.is_csv(name, facts.x)
      labels = (
        tables.labels_in(name, column, facts.class_names)
        if is_table
        else npz.labels_in(name, facts.num_classes)
      )
      if labels is not None or has_statistics(model.config.evaluation):
        return name, labels
    split = 'train' if is_file else name
    return split, labels_of(datasets.source_of(model.config, split))


def is_of_reference(each: Scored) -> bool:
  """Returns whether a metric compares samples with others."""
  return not OF_REFERENCE.isdisjoint(each.metric.needs)


def needs_held_out(c: Node, each: Scored) -> bool:
  """Returns whether a metric, or its floor, needs examples of the other split."""
  return 'held_out' in each.metric.needs or c.floor and scoring.has_floor(each)


def protocols_of(c: Node, metric: list[Scored], references: References) -> Json:
  """Returns the features of a metric, and what they are compared to, by space."""
  protocols: Json = {}
  for each in metric:
    name = each.space or ''
    if space := references.spaces.get(name):
      protocols[name] = {**(space.protocol if is_of_reference(each) else space.extractor.identity)}
      if needs_held_out(c, each):
        protocols[name]['held_out'] = space.held_out
  return protocols


def names_of(model: Model) -> dict[str, np.ndarray]:
  """Returns the names of the columns of x, if they have any, and what else says what x is.

  sizes: of a table, how many categories each of its own columns has, which are the first;
  manifold: of directions, their kind and period.
  """
  x = model.facts.x
  cells = zip(x.kinds, x.categories, strict=True)
  sizes = np.array([len(texts) for kind, texts in cells if kind != 'presence'])
  more = {'sizes': sizes} if x.kinds else {}
  more |= {'manifold': np.array([x.manifold, str(x.period)])} if x.manifold else {}
  return {'names': np.array(x.names), **more}


def make_extractor(model: Model, name: str) -> Extractor:
  """Returns the extractor of a name, with the weights of the config."""
  c = model.config.evaluation
  with from_config('evaluation'):
    if name != 'values':
      return features.make(name, c.weights, c.batch_size)
    x = model.facts.x
    standard = Standard(np.asarray(x.mean), np.asarray(x.std))
    if x.levels:
      standard = standard_of(reference_values(model, examples(c)))
    return features.make(name, standard=standard)


def other_values(model: Model, split: str) -> dict[str, np.ndarray]:
  """Returns {'others': real examples of a split}, beside which samples are scored; {} without."""
  try:
    return {'others': reference_values(model, split)}
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return {}


def reference_values(model: Model, name: str) -> np.ndarray:
  """Returns what samples are compared to, as files have it, [N, ...].

  At most references.LIMIT random examples of a split or a file. What pads them is NaN.
  """
  source = reference_source(model, name)
  index = some_of(source, references.LIMIT)
  with from_config('data'):
    arrays = source.read(index)
  return without_padding(references.as_written(source, arrays['x']), arrays.get('length'), np.nan)


def reference_source(model: Model, name: str) -> Source:
  """Returns a split of the data, or the examples of a file."""
  if name in ('train', 'test'):
    return datasets.source_of(model.config, name)
  with from_config('evaluation.reference'):
    x = model.facts.x
    if tables.is_csv(name, x):
      source = mixed.of_columns(name, x) if x.kinds else tables.csv_table(name, x.names)
    else:
      gaps = model.facts.gaps
      source = npz.npz(name, kind=x.manifold, period=x.period or None, gaps=gaps)
  theirs, ours = (each._replace(x=each.x.written) for each in (source.facts, model.facts))
  unread = *datasets.STATISTICS, 'num_classes', 'class_names', 'context'
  for fact, one, other in misfits(theirs, ours, unread):
    raise UserError(
      f'config.evaluation.reference: in {name} {fact} is {one}, and {other} is needed'
    )
  return source


def load_reference(model: Model, extractor: Extractor, split: str) -> tuple[Arrays, Json]:
  """Returns the features of real images, and the settings they depend on."""
  c = model.config
  about = provenance.made_of(c, {'data': roles.data_of(c), 'split': split})
  with from_config('evaluation'):
    source, size = reference_source(model, split), c.evaluation.batch_size
    return references.load(source, about, extractor, size)


def check_needs(model: Model, metrics: list[Scored]) -> None:
  """Raises UserError for a metric whose inputs these samples do not have."""
  c, stored = model.config.evaluation, conditions.stored_names(model) | {*model.draws}
  given = {'images', 'held_out', 'values', *stored, *held_out_pairs.known_arrays(model)}
  if model.facts.x.kinds:
    given |= {'others', 'sizes', 'names'}
  if model.facts.x.manifold:
    given |= {'others', 'manifold'}
  constructors = constructors_of(model)
  if not all(map(scoring.is_of_pairs, metrics)):
    conditions.check_not_longer(model)
  for each in metrics:
    arrays = features.ARRAYS.get(each.space or '', ())
    for need in sorted({*each.metric.needs} - given - {*arrays}):
      field = f'{each.name}.features' if each.metric.features else 'features'
      hint = f': set config.evaluation.{field}, now {each.space}'
      hint = hint if need in EXTRACTED else ''
      raise UserError(f'config.{_PATH}: {missing(each.name, need)}{hint}')
    of_training = each.metric.of_training or 'held_out' in each.metric.needs
    if of_training and examples(c) != 'train':
      raise UserError(
        f'config.evaluation.reference={c.reference}: {each.name} compares samples with the '
        'training examples and with held-out ones: leave reference out'
      )
    if scoring.is_of_pairs(each) and (others := stored & {'labels', 'texts', 'conditions'}):
      raise UserError(
        f'config.{_PATH}: {each.name} draws x given only the context, and this run has '
        f'{min(others)}, too: train with a context only, which may have a column of classes'
      )
    if scoring.is_of_pairs(each):
      held_out_pairs.check_enough(model, each.name, declared_by(constructors[each.name]))
    if scoring.is_of_pairs(each) and model.takes_known:
      held_out_pairs.given_elements(model)
      if not {*LAW}.isdisjoint(each.metric.needs):
        moments_of(model.config.data, model.facts)


def kept_in(run: Run, parts: Path) -> Json:
  """Returns how `real_images.arrays_of` keeps a run's arrays in `parts`."""
  c, encode = run.model.config.evaluation, run.model.facts.x.encode
  return {
    'folder': parts,
    'mesh': run.mesh,
    'encode': encode,
    'seed': c.seed,
    'size': c.batch_size,
  }


def scorer(
  model: Model, compared: Compared
) -> tuple[Callable[[], object], Callable[[Arrays], dict[str, float]]]:
  """Returns (computes references, {'values': samples} -> values of all scores).

  Samples are as files have them, drawn as `compared` says. Bootstrap errors are left
  out: they need many more distances.
  """
  metrics = [x for x in of_samples(model, num_draws=0, beside=False) if not scoring.is_of_pairs(x)]
  check(model, metrics)
  prepared = functools.cache(lambda: scoring.beside(prepare(model, metrics), compared.labels))
  size = model.config.evaluation.batch_size

  def values(samples: Arrays) -> dict[str, float]:
    x, references = samples['values'], prepared()
    batches = [x[i : i + size] for i in range(0, len(x), size)]
    extracted = {name: space.of(batches) for name, space in references.spaces.items()}
    if model.facts.x.is_picture:
      samples = {**samples, 'images': x}
    with from_config(_PATH):
      scores = scoring.score(metrics, references, samples, extracted)
    return {x.name: x.estimate.value for x in scores}

  return prepared, values

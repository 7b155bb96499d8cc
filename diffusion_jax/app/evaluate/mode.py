"""Implements --mode=evaluate: scores a trained run, or its samples.

An interrupted evaluation continues with the samples and batches of real images
that it has written.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.evaluate import cells, held_out_pairs, scorers
from diffusion_jax.app.evaluate.cells import Cell, Point
from diffusion_jax.app.evaluate.scorers import Classes
from diffusion_jax.app.inputs import datasets, trained_on
from diffusion_jax.app.inputs.conditions import Compared
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.provenance import Place, title
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import image_sets, npz, pipeline
from diffusion_jax.data.set_files import say_once
from diffusion_jax.data.sources import Source, content_sum
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import real_images, references as of_real, scoring, sweeps
from diffusion_jax.metrics.forecasts import LAW
from diffusion_jax.metrics.likelihoods import ode
from diffusion_jax.metrics.metric import Arrays, ModelMetric, Score, as_json, table
from diffusion_jax.metrics.scoring import References
from diffusion_jax.report import sampling_words
from diffusion_jax.runtime import processes, run_folder
from diffusion_jax.runtime.compiling import precision_in_use
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.sharding import replicate

_DRAWN = Path('evaluation', 'drawn')


class Found(NamedTuple):
  """The scores of a cell, in the first process only; code: the hash of their settings."""

  code: str
  folder: Path
  scores: list[Score]


KnownScores = dict[str, Found]  # by the hash of the settings


class Examples(NamedTuple):
  """The real examples that models are measured on: the first `count` of a source, their sum."""

  source: Source
  count: int
  checksum: str


def main(run: Run) -> None:
  """Writes evaluation/<metric>-<hash>/result.json for each metric at each point of the sweep.

  Cells of the table with equal settings are computed once; see `cells`. The samples
  are in evaluation/drawn/, and the table in evaluation/sweep-<hash>/.
  """
  if not run.model.config.evaluation.metrics:
    names = ', '.join(run.model.schema.metrics)
    raise UserError(f'config.evaluation.metrics is empty: give one of {names}')
  points = cells.points_of(run)
  metrics = points[0].model.config.evaluation.metrics
  if metrics != run.model.config.evaluation.metrics:
    print(f'evaluation.metrics={",".join(metrics)}')
  for point in points:
    check(point)
  check_weights(points)
  run.model.workdir.make('evaluation')
  examples = examples_of(points)
  classes = None
  if any(cell.group == 'samples' for point in points for cell in point.cells):
    classes = scorers.classes_of(scorers.with_classes([point.model for point in points]))
  for line in costs(points, examples, classes):
    print(line)
  references, known = references_of(points), {}
  rows = [score(point, references, classes, examples, known) for point in points]
  if len(points) > 1:
    write_table(points, rows)


# -- before anything is drawn --------------------------------------------------


def check(point: Point) -> None:
  """Raises UserError for a cell that this model, its weights or its data do not have."""
  model = point.model
  model.check('evaluate')
  scorers.check_needs(model, [x for cell in point.cells for x in cell.scored])
  for cell in point.cells:
    if isinstance(cell.metric, ModelMetric):
      with from_config(f'evaluation.{cell.name}'):
        cell.metric.measure(model.measured)


def check_weights(points: list[Point]) -> None:
  """Raises UserError for weights that the run does not have; each choice is read once."""
  models = {}
  for point in points:
    c = folder.plain(point.model.config.sampling)
    models[str((c['weights'], c['checkpoint']))] = point.model
  for model in models.values():
    weights.restore(model)


def examples_of(points: list[Point]) -> Examples | None:
  """Returns the real examples of all cells, None if no metric is of examples."""
  if not any(cell.group == 'examples' for point in points for cell in point.cells):
    return None
  config = points[0].model.config
  source = datasets.source_of(config, config.evaluation.split)
  count = min(config.evaluation.num_images or len(source), len(source))
  with from_config('data'):
    return Examples(source, count, content_sum(source, count))


def costs(points: list[Point], examples: Examples | None, classes: Classes | None) -> Iterator[str]:
  """Yields a line for each part of the work at a point, and the field that makes it less.

  A line of a sweep says what all its points share. classes: `scorers.classes_of`.
  """
  model, c = points[0].model, points[0].model.config.evaluation
  steps = _shared(_steps_of(point.model.config.sampling) for point in points) or ''
  each = f' at each of {len(points)} points' if len(points) > 1 else ''
  groups = {cell.group for cell in points[0].cells}
  if 'samples' in groups:
    compared = [scorers.compared(point.model, classes) for point in points]
    words = _shared(x.words for x in compared)
    of = f', {words}' if words else ''
    yield f'{c.num_generated:,} samples{steps} are drawn{each}{of} (evaluation.num_generated)'
    if classes is None and compared[0].in_turn and not model.config.sampling.labels:
      yield f'note: the class frequencies of evaluation.reference={c.reference} are not known'
  if 'pairs' in groups:
    draws = (
      f'{c.draws_per_pair:,} samples{steps} for each of at most {c.num_pairs:,} held-out pairs'
    )
    given = held_out_pairs.in_words(model)
    given = f', given {given} elements' * bool(given)
    yield f'{draws} are drawn{each}{given} (evaluation.draws_per_pair, num_pairs)'
  for cell in points[0].cells:
    if examples and isinstance(metric := cell.metric, ModelMetric):
      train = datasets.source_of(model.config) if metric.fit else None
      if calls := _shared(metric.calls(point.model.measured, train) for point in points):
        what = f'{cell.name} calls the network {calls:,} times for each of {examples.count:,}'
        yield f'{what} {c.split} examples (evaluation.num_images)'


def _shared(values):
  # Returns the value that all points have, None if they differ.
  first, *others = values
  return first if all(x == first for x in others) else None


def _steps_of(sampling):
  fields = folder.plain(sampling)
  each = ' for each element' * bool(fields.get('order'))
  grid = fields.get('grid')
  return f' of {sampling_words.grid_in_words(grid)}{each}' if grid else ''


def references_of(points: list[Point]) -> References:
  """Returns what samples are compared to, in the first process."""
  scored = {
    cell.name: cell.scored for point in points for cell in point.cells if cell.group == 'samples'
  }
  references = References({}, {})
  if scored:
    if processes.is_first():
      every = [x for each in scored.values() for x in each]
      model = scorers.with_classes([point.model for point in points])
      references = scorers.prepare(model, every)
    processes.wait_for_all('features of real images')
  return references


# -- the scores of a point -----------------------------------------------------


def score(
  point: Point,
  references: References,
  classes: Classes | None,
  examples: Examples | None,
  known: KnownScores,
) -> dict[str, Found]:
  """Returns the scores of a point by the names of metrics, and writes their files."""
  run, found = Run(point.model), {}
  if point.changes:
    print(f'{title(point.changes)}:')
  groups = {g: [x for x in point.cells if x.group == g] for g in ('samples', 'pairs')}
  if groups['samples']:
    compared = scorers.compared(point.model, classes)
    found |= score_samples(run, groups['samples'], references, compared, known)
  if groups['pairs']:
    found |= score_pairs(run, groups['pairs'], known)
  processes.wait_for_all(f'scores {title(point.changes)}')
  for cell in point.cells:
    if examples and isinstance(cell.metric, ModelMetric):
      found[cell.name] = score_examples(run, cell, cell.metric, examples, known)
  return {cell.name: found[cell.name] for cell in point.cells}


def looked_up(
  cell: Cell, settings: Json, known: KnownScores, compute: Callable[[Place], list[Score]]
) -> Found:
  """Returns the scores of these settings, which `compute` makes unless they are known."""
  code = provenance.code_of(settings)
  if code not in known:
    with cells.kept(cell, settings) as place:
      known[code] = Found(code, place.path.parent, compute(place))
  return known[code]


def write(cell: Cell, place: Place, read: str, **content: Any) -> None:
  """Writes the result.json of scores; read: the split whose examples they are by, '' for none."""
  model, about = cell.model, {}
  if others := read and datasets.another_set(model.config, read):
    most = int(content.get('examples') or content.get('pairs') or 0)
    seen = trained_on.count(model.run, model.config, read, most)
    about = {'other_data': provenance.by_content(others), 'trained_on': seen}
    say_once(trained_on.in_words(seen, f'{read} {model.facts.x.noun}'))
  write_summed(
    place.path,
    {
      'settings': place.finished(),
      **about,
      'matmul_precision': precision_in_use() or 'default',
      'metric': cell.name,
      **content,
    },
  )


def draw(run: Run, config: Node, **conditions: Any) -> Path:
  """Draws samples as a config says; returns their file. conditions: see `sample.draw`."""
  return sample.draw(run.changed(config), _DRAWN, **conditions)


def score_samples(
  run: Run, scored: list[Cell], references: References, compared: Compared, known: KnownScores
) -> dict[str, Found]:
  """Draws the images of a point, and writes the scores of each metric.

  Images that exist with these settings are kept.
  """
  config, c, x = run.model.config, run.model.config.evaluation, run.model.facts.x
  path = draw(run, cells.drawing(config, cells.drawn_for_samples(config)), compared=compared)
  with from_config('evaluation.metrics'):
    references = scoring.beside(references, compared.labels)
  drawn, is_first = provenance.read(path), processes.is_first()
  samples, extracted, floors, found = {}, {}, [], {}
  if is_first:
    needs = {need for cell in scored for each in cell.scored for need in each.metric.needs}
    stored = image_sets.read(path, needs, any_shape=not x.is_picture)
    samples = dict(stored.arrays)
    if not needs.isdisjoint(('images', 'values')):
      samples['values'] = samples['images'] = np.concatenate(list(stored.batches(c.batch_size)))
    count, what = stored.shape[0], 'images' if x.is_picture else 'samples'
    for name, space in references.spaces.items():
      kept = path.with_name(f'{path.stem}.{name}.npz')
      with run_folder.hold(kept.parent, kept.name), from_config('evaluation.metrics'):
        extracted[name] = of_real.extract(space.extractor, stored, kept, drawn, c.batch_size)
  for cell in scored:
    protocols = scorers.protocols_of(c, cell.scored, references)
    used = {'evaluation': cell.fields['evaluation'], 'reference': protocols}
    needs = {need for each in cell.scored for need in each.metric.needs}
    values = {name: array for name, array in references.values.items() if name in needs}
    settings = provenance.of_scores(path, used, values)

    def compute(place, cell=cell, protocols=protocols):
      if not is_first:
        return []
      with from_config('evaluation.metrics'):
        scores = scoring.score(cell.scored, references, samples, extracted)
        floor = scoring.floor(cell.scored, references, c.num_generated) if c.floor else []
      real = scoring.size_of_floor(references, c.num_generated) if floor else 0
      more = {'floor': as_json(floor), 'floor_examples': real} if floor else {}
      protocol = {'samples': drawn, 'reference': protocols}
      protocol |= {'classes': compared.words} if compared.in_turn else {}
      more |= {'protocol': protocol, 'metrics': as_json(scores)}
      compares = any(map(scorers.is_of_reference, cell.scored))
      write(cell, place, scorers.examples(c) if compares else '', **more)
      floors.extend(floor)
      return scores

    found[cell.name] = looked_up(cell, settings, known, compute)
  if is_first:
    print(table([x for each in found.values() for x in each.scores]))
    if floors:
      real = scoring.size_of_floor(references, c.num_generated)
      few = ' (Frechet distances of fewer are larger)' * (real < count)
      print(f'{real:,} {x.noun} of the other split in place of {count:,} samples{few}:')
      print(table(floors))
    print(f'{count:,} {what}; {provenance.describe(drawn)}')
    for space in references.spaces.values():
      if y := space.protocol:
        of = y.get('origin') or f'{y["images"]:,} {examples_in_words(y, x.noun)}'
        print(f'against {y["features"]} ({y["preprocessing"]}; weights {y["weights"]}) of {of}')
    print(*(f'{each.folder}/result.json' for each in found.values()), sep='\n')
  return found


def examples_in_words(protocol: Json, noun: str) -> str:
  """Returns what real examples are, of a split or a file; protocol: of their features."""
  split = protocol['split']
  is_file = split not in ('train', 'test')
  return f'{noun} of {split}' if is_file else f'{split} {noun} of {protocol["data"]["name"]}'


def score_pairs(run: Run, calibrated: list[Cell], known: KnownScores) -> dict[str, Found]:
  """Draws for held-out pairs, and writes the scores and figures of each metric."""
  model, c = run.model, run.model.config.evaluation
  needs = {need for cell in calibrated for each in cell.scored for need in each.metric.needs}
  held = held_out_pairs.read(model, not needs.isdisjoint(LAW))
  drawn = draw(
    run, cells.drawing(model.config, cells.drawn_for_pairs(model.config)), rows=held.rows
  )
  run_folder.share(drawn, 'draws of the pairs')
  draws = held.drawn(npz.read(drawn, ['arr_0'])['arr_0'])
  samples: Arrays = {'draws': draws}
  given = held_out_pairs.in_words(model)
  reference: Arrays = {**held.reference}
  if 'log_q' in needs:
    log_q = log_density(run, draws, reference)
    samples['log_q'], reference['log_q'] = log_q[:, 1:], log_q[:, 0]
  found = {}
  for cell in calibrated:
    used = {'evaluation': cell.fields['evaluation']}
    rows = {'truth': reference['truth'], 'rows': held.rows}
    settings = provenance.of_scores(drawn, used, rows)

    def compute(place, cell=cell):
      if not processes.is_first():
        return []
      (each,) = cell.scored
      needed = {n: x for n, x in reference.items() if n in each.metric.needs}
      with from_config('evaluation.metrics'):
        scores = scoring.compute(each, samples, needed | scorers.names_of(model))
      if each.metric.report:
        each.metric.report(samples, needed, place.path.parent)
      about = {'split': c.split, 'pairs': len(draws), 'draws_per_pair': c.draws_per_pair}
      about |= {'given': given} if given else {}
      about |= {'protocol': {'samples': provenance.read(drawn)}, 'metrics': as_json(scores)}
      write(cell, place, c.split, **about)
      return scores

    found[cell.name] = looked_up(cell, settings, known, compute)
  if processes.is_first():
    print(table([x for each in found.values() for x in each.scores]))
    print(*(f'{each.folder}/result.json' for each in found.values()), sep='\n')
  return found


def log_density(run: Run, draws: np.ndarray, reference: Arrays) -> np.ndarray:
  """Returns log q of the truth and its draws, nats, [M, 1 + n], by the ODE.

  It is the density of the draws: within data.bounds, if they are set. reference: the truth
  and context of the draws.
  """
  model, c, truth = run.model, run.model.config.evaluation, reference['truth']
  facts = model.facts
  assert facts.context is not None
  each = np.concatenate([truth[:, None], draws], axis=1)
  flat, rows = each.reshape(-1, *truth.shape[1:]), each.shape[1]
  encoded = facts.context.encode(reference['context'])
  about = {'evaluation': {'seed': c.seed, 'batch_size': c.batch_size}}
  settings = provenance.settings(run, about, {'draws': draws, **reference})

  def read(index):
    return flat[index], {'context': encoded[index // rows]}

  def read_truth(index):
    return truth[index], {'context': encoded[index]}

  def arrays_of(metric, name, read, count, parts):
    measure, kept = metric.measure(model.measured), scorers.kept_in(run, parts)
    return real_images.arrays_of(measure, name, run.on_devices, read, count, **kept)

  name, box = _DRAWN / 'log_q', None
  with provenance.making(model.workdir, name, settings, 'evaluation.name', False) as place:
    arrays = arrays_of(ode(box_draws=0), 'ode', read, len(flat), place.parts)
    if facts.x.low:  # All draws of a pair have one share inside the box.
      box = arrays_of(ode(), 'box', read_truth, len(truth), place.parts / 'box')
  if arrays is None:
    return np.zeros(each.shape[:2])
  nats = arrays['nats'].reshape(each.shape[:2])
  if box is not None:
    nats = nats + (box['truncated'] - box['nats'])[:, None]
  return -nats * math.prod(facts.x.shape)


def score_examples(
  run: Run, cell: Cell, metric: ModelMetric, examples: Examples, known: KnownScores
) -> Found:
  """Measures the model on real examples; writes the scores of one metric."""
  model, name, split = run.model, cell.name, run.model.config.evaluation.split
  with from_config(f'evaluation.{name}'):
    measure = metric.measure(model.measured)
  read, train = {'examples': examples.checksum}, None
  if metric.fit:
    train = datasets.source_of(model.config)
    read['train'] = content_sum(train)
  sampling = cell.fields['sampling'] | {'checkpoint': str(run.checkpoint[1])}
  used = {'evaluation': cell.fields['evaluation'], 'sampling': sampling}
  settings = provenance.settings(run, used, read)
  length = datasets.text_length(model.config)

  def examples_at(index):
    return pipeline.examples(examples.source, index, length, model.facts)

  def compute(place):
    how = scorers.kept_in(run, place.parts)
    how['condition'] = model.conditioning.image
    with from_config(f'evaluation.{name}'):  # what the metric refuses
      fitted = metric.fit(model.measured, train) if metric.fit and train else {}
      params = run.on_devices | replicate(run.mesh, fitted)
      arrays = real_images.arrays_of(measure, name, params, examples_at, examples.count, **how)
    if arrays is None:
      return []
    scores, path = metric.compute(arrays), place.path
    print(table(scores))
    about = {'split': split, 'examples': examples.count, 'metrics': as_json(scores)}
    about |= metric.report(arrays, path.parent) if metric.report else {}
    write(cell, place, split, **about)
    precision = precision_in_use() or 'default'
    noun = model.facts.x.noun
    print(f'{examples.count} {split} {noun}, matmul_precision={precision}: {path}')
    return scores

  return looked_up(cell, settings, known, compute)


def write_table(points: list[Point], rows: list[dict[str, Found]]) -> None:
  """Writes sweep.json and sweep.png of all points, and prints the table."""
  model = points[0].model
  c, titles = model.config.evaluation, [title(point.changes) for point in points]
  codes = [{name: found.code for name, found in row.items()} for row in rows]
  settings = {'evaluation': {'sweep': c.sweep}, 'cells': dict(zip(titles, codes, strict=True))}
  path = Path(f'sweep-{c.name}' if c.name else 'sweep')
  with cells.making(model, path, settings, 'sweep') as place:
    if processes.is_first():
      contents = [
        {
          'point': point.changes,
          'metrics': as_json([x for found in row.values() for x in found.scores]),
          'results': {name: found.folder.name for name, found in row.items()},
        }
        for point, row in zip(points, rows, strict=True)
      ]
      sweeps.write(place.path.parent, titles, contents, settings)

"""Implements --mode=evaluate: scores a trained run, or its samples.

An interrupted evaluation continues with the samples and batches of real images
that it has written.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.evaluate.points import Fields, Point, kept, points_of, used
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import rules, store
from diffusion_jax.app.kinds.store import name_of
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.provenance import Place
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import image_sets, npz, pipeline
from diffusion_jax.data.sources import Source, content_sum
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import (
  calibration,
  plots,
  real_images,
  references as of_real,
  scoring,
  sweeps,
)
from diffusion_jax.metrics.likelihoods import ode
from diffusion_jax.metrics.metric import Arrays, ModelMetric, as_json, table
from diffusion_jax.metrics.scoring import References, Scored
from diffusion_jax.metrics.sweeps import Results, title
from diffusion_jax.metrics.table import OF_PAIRS
from diffusion_jax.runtime import buckets, processes
from diffusion_jax.runtime.compiling import precision_in_use
from diffusion_jax.runtime.files import make_folder, write_summed
from diffusion_jax.runtime.sharding import replicate

_DRAWN = Path('evaluation', 'drawn')


def main(run: Run) -> None:
  """Writes evaluation/<metric>-<split>-<hash>/result.json for each metric of real images.

  Metrics of generated images share evaluation/samples-<hash>/; see `provenance.making`. A
  sweep writes a folder for each point, and a table into another. The samples are in
  evaluation/drawn/.
  """
  model = scorers.chosen(run.model)
  c = model.config.evaluation
  if model is not run.model:
    print(f'evaluation.metrics={",".join(c.metrics)}')
    run = Run(model)
  if not c.metrics:
    names = ', '.join(model.schema.metrics)
    raise UserError(f'config.evaluation.metrics is empty: give one of {names}')
  every, of_images = scorers.of_samples(model), scorers.of_models(model)
  pairs = [x for x in every if scoring.is_of_pairs(x)]
  of_samples = [x for x in every if x not in pairs]
  groups = {'samples': of_samples, 'pairs': pairs, 'examples': of_images}
  groups = {kind: metrics for kind, metrics in groups.items() if metrics}
  scorers.check_needs(model, every)
  points = points_of(run, [*groups])
  make_folder(model.workdir, 'evaluation')
  references = References({}, {})
  if of_samples:
    # Missing weights or data are noticed before the images are drawn.
    if len(groups) > 1:
      datasets.source_of(model.config, c.split)
    if processes.is_first():
      references = scorers.prepare(model, of_samples)
    processes.wait_for_all('features of real images')
  results: Results = {}
  measured: dict[str, Fields] = {}  # by the fields that choose weights
  for point in points:
    scores = results[title(point.changes)] = {}
    if point.changes:
      print(f'{title(point.changes)}:')
    if of_samples:
      scores |= score_samples(references, point, of_samples)
    if pairs:
      scores |= score_pairs(point, pairs)
    processes.wait_for_all(f'scores {title(point.changes)}')
    weights_of = title(point.of_weights)
    if of_images and weights_of not in measured:
      measured[weights_of] = score_point(point, of_images)
    if weights_of:
      scores |= measured.get(weights_of, {})
  if len(points) > 1:
    first = next(iter(of_images)) if [*groups] == ['examples'] else next(iter(groups))
    fields = {x for group in groups for x in rules.READ[group]}
    about = used(c, {*map(name_of, c.metrics)}, 'sweep', *fields)
    settings = provenance.of_sampling(points[0].run, {}, evaluation=about)
    with kept(Point({}, run), first, settings, 'sweep') as place:
      if all(results.values()) and processes.is_first():
        changes = [point.changes for point in points]
        sweeps.write(place.path.parent, changes, results, settings)


def score_samples(references: References, point: Point, metrics: list[Scored]) -> Fields:
  """Draws the images of a point, and writes their scores into result.json.

  Images that exist with these settings are kept. Returns the scores as JSON in
  the first process, {} in the others.
  """
  c, is_picture = point.run.model.config.evaluation, point.run.model.facts.x.is_picture
  path = draw(point.run, num_samples=c.num_generated)
  protocol = {name: space.protocol for name, space in references.spaces.items()}
  about = {'evaluation': used(c, {x.name for x in metrics}, *rules.READ['samples'])}
  about['reference'] = protocol
  settings = provenance.of_scores(path, about, references.values)
  with kept(point, 'samples', settings) as place:
    if not processes.is_first():
      return {}
    needs = {need for each in metrics for need in each.metric.needs}
    stored = image_sets.read(path, needs, any_shape=not is_picture)
    drawn, samples, size = provenance.read(path), dict(stored.arrays), c.batch_size
    if not needs.isdisjoint(('images', 'values')):
      samples['values'] = samples['images'] = np.concatenate(list(stored.batches(size)))
    with from_config('evaluation.metrics'):
      extracted = {
        name: of_real.extract(
          space.extractor, stored, path.with_name(f'{path.stem}.{name}.npz'), drawn, size
        )
        for name, space in references.spaces.items()
      }
      scores = scoring.score(metrics, references, samples, extracted)
      floor = scoring.floor(metrics, references, c.num_generated) if c.floor else []
    more = {'floor': as_json(floor)} if c.floor else {}
    more |= {'protocol': {'samples': drawn, 'reference': protocol}, 'metrics': as_json(scores)}
    write(point, place, scorers.examples(c), settings, **more)
    print(table(scores))
    if floor:
      print('real images of the other split in place of samples:')
      print(table(floor))
    what = 'images' if is_picture else 'samples'
    print(f'{stored.shape[0]:,} {what}; {provenance.describe(drawn)}')
    for x in protocol.values():
      of = x.get('origin') or f'{x["images"]:,} {x["split"]} images of {x["data"]["name"]}'
      print(f'against {x["features"]} ({x["preprocessing"]}; weights {x["weights"]}) of {of}')
    print(place.path)
    return as_json(scores)


def write(point: Point, place: Place, split: str, settings: Json, /, **content: object) -> None:
  """Writes the result.json of scores by the examples of a split."""
  others = datasets.another_set(point.run.model.config, split)
  write_summed(
    place.path,
    {
      'settings': settings,
      **({'other_data': provenance.by_content(others)} if others else {}),
      'matmul_precision': precision_in_use() or 'default',
      **content,
    },
  )


def draw(run: Run, rows: np.ndarray | None = None, **fields: object) -> Path:
  """Draws samples with these fields of config.sampling; returns their file.

  rows: contexts in place of sampling.context.
  """
  fields |= {'name': '', 'trajectory': False, 'profile': False}
  changes = {f'sampling.{name}': x for name, x in fields.items()}
  drawing = run.changed(store.with_fields(run.model.config, changes))
  return sample.draw(drawing, _DRAWN, rows)


def score_pairs(point: Point, metrics: list[Scored]) -> Json:
  """Draws for held-out pairs; writes the scores and curves of calibration.

  Returns the scores as JSON in the first process, {} in the others.
  """
  run, model = point.run, point.run.model
  c = model.config.evaluation
  source = datasets.source_of(model.config, c.split)
  index = np.arange(min(c.num_pairs, len(source)))
  with from_config('data'):
    arrays = source.read(index)
  fields = {'num_samples': c.draws_per_pair, 'context': '', 'context_row': None}
  drawn = draw(run, arrays['context'], **fields)
  buckets.share(drawn, 'draws of the pairs')
  draws = npz.read(drawn, ['arr_0'])['arr_0']
  draws = draws.reshape(len(index), -1, *draws.shape[1:])
  truth = of_real.as_written(source, arrays['x'])
  samples: Arrays = {'draws': draws}
  reference: Arrays = {'truth': truth, 'context': arrays['context']}
  if any('log_q' in each.metric.needs for each in metrics):
    log_q = log_density(run, draws, reference)
    samples['log_q'], reference['log_q'] = log_q[:, 1:], log_q[:, 0]
  about = {'evaluation': used(c, {x.name for x in metrics}, *rules.READ['pairs'])}
  settings = provenance.of_scores(drawn, about, {'truth': truth, 'rows': arrays['context']})
  with kept(point, 'pairs', settings) as place:
    if not processes.is_first():
      return {}
    out = place.path
    enough = draws.shape[1] > 1 and len(index) >= calibration.LEAST_PAIRS
    if enough and (contraction := OF_PAIRS.get('contraction')):
      # Calibrated draws may be as wide as the prior.
      if all(x.name != 'contraction' for x in metrics):
        metrics = [*metrics, Scored('contraction', contraction())]
    named = {**reference, **scorers.names_of(model)}
    with from_config('evaluation.metrics'):
      scores = [x for each in metrics for x in scoring.compute(each, samples, named)]
    levels = calibration.all_levels(samples, reference)
    plots.plot_ranks(out.with_name('ranks.png'), levels.pop('ranks'))
    plots.plot_coverage(out.with_name('coverage.png'), levels)
    about = {'pairs': len(index), 'draws_per_pair': c.draws_per_pair, 'split': c.split}
    about |= {'protocol': {'samples': provenance.read(drawn)}, 'metrics': as_json(scores)}
    write(point, place, c.split, settings, **about)
    print(table(scores), out, sep='\n')
    return as_json(scores)


def log_density(run: Run, draws: np.ndarray, reference: Arrays) -> np.ndarray:
  """Returns log q of the truth and its draws, nats, [M, 1 + n].

  By the ODE, up to a constant. reference: the truth and context of the draws.
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

  measure = ode(box_draws=0).measure(model.measured)
  args = measure, 'ode', run.on_devices, read, len(flat)
  place = model.workdir, _DRAWN / 'log_q', settings, 'evaluation.name', False
  with provenance.making(*place) as place:
    arrays = real_images.arrays_of(*args, **scorers.kept_in(run, place.parts))
  if arrays is None:
    return np.zeros(each.shape[:2])
  return -arrays['nats'].reshape(each.shape[:2]) * math.prod(facts.x.shape)


def score_point(point: Point, metrics: dict[str, ModelMetric]) -> Fields:
  """Scores real images by one set of weights, and writes result.json.

  Returns the scores as JSON in the first process, {} in the others.
  """
  config, results = point.run.model.config, {}
  source = datasets.source_of(config, config.evaluation.split)
  count = min(config.evaluation.num_images or len(source), len(source))
  with from_config('data'):
    examples = content_sum(source, count)
  for name, metric in metrics.items():
    results |= score_images(point, (source, count, examples), name, metric)
  return results


def score_images(
  point: Point, inputs: tuple[Source, int, str], name: str, metric: ModelMetric
) -> Fields:
  """Writes result.json of one metric; returns its scores as `score_point`.

  inputs: a source, how many of its first examples are scored, and their sum.
  """
  run, model, c = point.run, point.run.model, point.run.model.config.evaluation
  source, count, examples = inputs
  with from_config(f'evaluation.{name}'):
    watched = Watched(model.measured)
    measure, more = metric.measure(watched), metric.more(watched) if metric.more else {}
  settings = settings_of(run, {'examples': examples} | watched.sums, name)
  length = datasets.text_length(model.config)

  def read(index):
    return pipeline.examples(source, index, length, model.facts)

  with kept(point, name, settings) as place:
    how = scorers.kept_in(run, place.parts)
    how['condition'] = model.conditioning.image
    params = run.on_devices | replicate(run.mesh, more)
    with from_config(f'evaluation.{name}'):  # what the metric refuses
      arrays = real_images.arrays_of(measure, name, params, read, count, **how)
    if arrays is None:
      return {}
    scores, path = metric.compute(arrays), place.path
    print(table(scores))
    report = metric.report
    more = report(arrays, path.parent) if report else {'metrics': as_json(scores)}
    about = {'metric': name, 'split': c.split, 'images': count}
    write(point, place, c.split, settings, **about, **more)
  print(f'{count} {c.split} images, matmul_precision={precision_in_use() or "default"}: {path}')
  return as_json(scores)


class Watched:
  """What a metric measures; sums has the sums of each split that it has read."""

  def __init__(self, measured: Any):
    self._measured, self.sums = measured, {}

  def __getattr__(self, name: str) -> Any:
    return getattr(self._measured, name)

  def source(self, split: str = 'train') -> Source:
    """Returns the images of a split."""
    source = self._measured.source(split)
    self.sums[split] = content_sum(source)
    return source


def settings_of(run: Run, read: Json, name: str) -> Json:
  """Returns all that a metric's numbers of real images depend on."""
  model, sampling = run.model, run.model.config.sampling
  about = used(model.config.evaluation, {name}, *rules.READ['examples'])
  variance = (sampling.get('sampler') or {}).get('variance', 'fixed_small')
  drawn = {'variance': variance, 'bound': folder.plain(model.config)['sampling'].get('bound')}
  return provenance.settings(run, {'evaluation': about, 'sampling': drawn}, read)

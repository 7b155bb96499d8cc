"""Implements --mode=evaluate: scores a trained run, or its samples.

An interrupted evaluation continues with the samples and batches of real images
that it has written.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app import models, scoring
from diffusion_jax.app.config import folder, refusals, store
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.kinds import name_of
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.model import Model
from diffusion_jax.app.modes import evaluate_pairs
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.data import image_sets, pipeline
from diffusion_jax.data.sources import content_sum
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.metrics import real_images, references, sweeps
from diffusion_jax.metrics.metric import ModelMetric, as_json, table
from diffusion_jax.metrics.sweeps import Results, title
from diffusion_jax.runtime import lock, processes
from diffusion_jax.runtime.compiling import precision_in_use
from diffusion_jax.runtime.files import make_folder, write_json

# Fields of config.sampling that change the scores of real images as well.
OF_WEIGHTS = 'ema_decay', 'ema_sigma_rel'

Fields = Json  # of a sweep, of the scores as JSON, of settings


def run(config: Node, workdir: str | Path) -> None:
  """Writes evaluation/<metric>-<split>/ for each metric of real images.

  Metrics of generated images share evaluation/samples/. A sweep writes a folder
  for each point inside these folders, and a table into the first.
  """
  model = models.make(config, workdir)
  if not config.evaluation.metrics:
    names = ', '.join(model.schema.metrics)
    raise UserError(f'config.evaluation.metrics is empty: give one of {names}')
  every = scoring.of_samples(model)
  groups: dict[str, Any] = {
    'samples': [x for x in every if not scoring.is_of_pairs(x)],
    'pairs': [x for x in every if scoring.is_of_pairs(x)],
    'examples': scoring.of_models(model),
  }
  kinds = [kind for kind, metrics in groups.items() if metrics]
  scoring.check_needs(model, every)
  points = points_of(model, kinds)
  make_folder(workdir, 'evaluation')
  spaces: dict[str, scoring.Space] = {}
  if 'samples' in kinds:
    # Missing weights or data are noticed before the images are drawn.
    if len(kinds) > 1:
      datasets.source_of(config, config.evaluation.split)
    if processes.is_first():
      spaces = scoring.prepare(model, groups['samples'])
    processes.wait_for_all('features of real images')
  results: Results = {title(changes): {} for changes, _ in points}
  score = {'samples': functools.partial(score_samples, spaces), 'pairs': evaluate_pairs.score}
  for kind, (changes, point) in itertools.product(kinds, points):
    if kind in score:
      with result_folder(point, kind, changes) as out:
        results[title(changes)] |= score[kind](point, groups[kind], out)
      processes.wait_for_all(f'{kind} {title(changes)}')
  measured: dict[str, Fields] = {}  # by the fields that choose weights
  for changes, point in points if groups['examples'] else ():
    own = {f: value for f, value in changes.items() if f in OF_WEIGHTS}
    if title(own) not in measured:
      measured[title(own)] = score_point(point, groups['examples'], own)
    if own:
      results[title(changes)] |= measured[title(own)]
  if len(points) > 1 and all(results.values()) and processes.is_first():
    first = kinds[0] if kinds[0] in score else next(iter(groups['examples']))
    out = make_folder(workdir, folder_of(model, first))
    sweeps.write(out, [changes for changes, _ in points], results)


def points_of(model: Model, kinds: list[str]) -> list[tuple[Fields, Model]]:
  """Returns ({field: value}, model) of each point of the sweep, checked."""
  config, points = model.config, []
  for changes, changed in sweep(config):
    idle = [field for field in changes if field not in OF_WEIGHTS]
    if idle and kinds == ['examples']:
      raise UserError(
        f'config.evaluation.sweep: {idle[0]} changes samples, and no metric of '
        f'evaluation.metrics={",".join(config.evaluation.metrics)} is of samples'
      )
    point = models.make(changed, model.workdir, model.facts)
    point.check('evaluate')
    rows = [refusals.of_evaluation(kinds)]
    refuse(refusals.lines(rows, changed, 'evaluate', model.workdir))
    if 'samples' in kinds:  # before features of real images are computed
      weights.restore(point)
    points.append((changes, point))
  return points


def folder_of(model: Model, metric: str, changes: dict | None = None) -> Path:
  """Returns the path in the run of a metric, or 'samples', at a point."""
  c = model.config.evaluation
  parts = (metric,) if metric in ('samples', 'pairs') else (metric, c.split)
  name = '-'.join(filter(None, (*parts, c.name)))
  return Path('evaluation', name, title(changes or {}))


@contextlib.contextmanager
def result_folder(model: Model, metric: str, changes: dict) -> Iterator[Path]:
  """Yields the folder of `folder_of`, in which no other process evaluates."""
  if changes:
    print(f'{title(changes)}:')
  out = make_folder(model.workdir, folder_of(model, metric, changes))
  with lock.hold(out, 'result.json', '--config.evaluation.name'):
    yield out


def sweep(config: Node) -> Iterator[tuple[Fields, Node]]:
  """Yields ({field: value}, config) of each point of evaluation.sweep.

  The sweep lists values for fields of config.sampling, 'num_steps=10,20
  sampler=ddim'; each combination is a point. An empty sweep has one point.
  """
  text, lists = config.evaluation.sweep, {}
  for item in text.split():
    field, _, values = item.partition('=')
    if not values:
      raise UserError(
        f'config.evaluation.sweep={text!r}: {item} is not field=value,value, '
        "as in 'num_steps=10,20 sampler=ddim,heun'"
      )
    lists[field] = values.split(',')
  for texts in itertools.product(*lists.values()):
    flags = [(f'sampling.{f}', x) for f, x in zip(lists, texts, strict=True)]
    point = store.with_flags(config, flags, trusted=False)
    values = ((field, point.sampling.at(field)) for field in lists)
    yield {f: x.name if isinstance(x, Node) else x for f, x in values}, point


def score_samples(
  spaces: dict[str, scoring.Space], model: Model, metrics: list[scoring.Scored], out: Path
) -> Fields:
  """Draws the images of a point, and writes their scores into result.json.

  Images that exist with these settings are kept. Returns the scores as JSON in
  the first process, {} in the others.
  """
  c, is_picture = model.config.evaluation, model.facts.x.is_picture
  path = evaluate_pairs.draw(model, out, num_samples=c.num_generated)
  if not processes.is_first():
    return {}
  needs = {need for each in metrics for need in each.metric.needs}
  stored = image_sets.read(path, needs, any_shape=not is_picture)
  drawn = provenance.read(path)
  samples, size = dict(stored.arrays), c.batch_size
  if not needs.isdisjoint(('images', 'values')):
    samples['values'] = np.concatenate(list(stored.batches(size)))
    samples['images'] = samples['values']
  extracted = {}
  with from_config('evaluation.metrics'):
    for name, space in spaces.items():
      if space.extractor is not None:
        args = space.extractor, stored, out / f'{name}.npz', drawn, size
        extracted[name] = references.extract(*args)
  scores = scoring.score(metrics, spaces, samples, extracted)
  floor = scoring.floor(metrics, spaces, c.num_generated) if c.floor else []
  protocol = {n: space.protocol for n, space in spaces.items() if n}
  write_json(
    out / 'result.json',
    {
      'protocol': {'samples': drawn, 'reference': protocol},
      'matmul_precision': precision_in_use() or 'default',
      'metrics': as_json(scores),
      **({'floor': as_json(floor)} if c.floor else {}),
    },
  )
  print(table(scores))
  if floor:
    print('real images of the other split in place of samples:')
    print(table(floor))
  what = 'images' if is_picture else 'samples'
  print(f'{stored.shape[0]:,} {what}; {provenance.describe(drawn)}')
  for x in protocol.values():
    of = x.get('origin') or f'{x["images"]:,} {x["split"]} images of {x["data"]["name"]}'
    print(f'against {x["features"]} ({x["preprocessing"]}; weights {x["weights"]}) of {of}')
  print(out / 'result.json')
  return as_json(scores)


def score_point(model: Model, metrics: dict[str, ModelMetric], changes: Fields) -> Fields:
  """Scores real images by one set of weights, and writes result.json.

  Returns the scores as JSON in the first process, {} in the others.
  """
  c = model.config.evaluation
  results: Fields = {}
  source = datasets.source_of(model.config, c.split)
  count = min(c.num_images or len(source), len(source))
  run = weights.open_run(model, 'evaluate')
  with from_config('data'):
    examples = content_sum(source, count)
  run = run._replace(inputs=(source, count, {'examples': examples}))
  params = run.on_devices()
  for name, metric in metrics.items():
    with result_folder(model, name, changes) as out:
      results |= score_images(run, params, name, metric, out)
  return results


def score_images(
  run: weights.Run, params: Params, name: str, metric: ModelMetric, out: Path
) -> Fields:
  """Writes result.json of one metric; returns its scores as `score_point`.

  params: on the devices; run.inputs: a source, how many of its first examples
  are scored, and sums of what was read.
  """
  model, c = run.model, run.model.config.evaluation
  source, count, known = run.inputs
  with from_config(f'evaluation.{name}'):
    watched, sums = watch(model.measured)
    measure = metric.measure(watched)
  settings = settings_of(run, known | sums, name)
  length = datasets.text_length(model.config)

  def read(index):
    return pipeline.examples(source, index, length, model.facts)

  how = scoring.kept_in(run, out / 'parts', settings)
  how['condition'] = model.conditioning.image
  with from_config(f'evaluation.{name}'):  # what the metric refuses
    arrays = real_images.arrays_of(measure, name, params, read, count, **how)
  if arrays is None:
    return {}
  scores = metric.compute(arrays)
  print(table(scores))
  precision, path = precision_in_use() or 'default', out / 'result.json'
  report = metric.report
  more = report(arrays, out) if report else {'metrics': as_json(scores)}
  write_json(
    path,
    {
      'metric': name,
      'split': c.split,
      'images': count,
      'matmul_precision': precision,
      'settings': settings,
      **more,
    },
  )
  print(f'{count} {c.split} images, matmul_precision={precision}: {path}')
  return as_json(scores)


def watch(measured: Any) -> tuple[Any, dict[str, str]]:
  """Returns what a metric measures, and a dict of sums of the splits it reads.

  The dict is filled while the metric reads them.
  """
  watched, sums = copy.copy(measured), {}

  def source(split='train'):
    data = measured.source(split)
    sums[split] = content_sum(data)
    return data

  object.__setattr__(watched, 'source', source)  # of a frozen dataclass
  return watched, sums


def settings_of(run: weights.Run, read: Json, name: str) -> Json:
  """Returns all that a metric's numbers of real images depend on."""
  model = run.model
  evaluation = folder.plain(model.config)['evaluation']
  fields = 'metrics', 'split', 'num_images', 'batch_size', 'seed', name
  used = {n: evaluation[n] for n in fields}
  used['metrics'] = [x for x in used['metrics'] if name_of(x) == name]
  sampling = model.config.sampling
  variance = (sampling.get('sampler') or {}).get('variance', 'fixed_small')
  drawn = {'variance': variance, 'clip': sampling.get('clip')}
  return provenance.settings(run, {'evaluation': used, 'sampling': drawn}, read)

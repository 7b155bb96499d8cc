"""Implements --mode=evaluate: scores a trained run, or its samples.

An interrupted evaluation continues with the samples and batches of real images
that it has written.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app import models, scoring
from diffusion_jax.app.config import folder, store, unread
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.kinds import name_of
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.model import Model
from diffusion_jax.app.modes import evaluate_pairs
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.data import image_sets, pipeline
from diffusion_jax.data.sources import Source, content_sum
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.metrics import (
  real_images,
  references,
  sweeps,
)
from diffusion_jax.metrics.metric import ModelMetric, as_json, table
from diffusion_jax.metrics.sweeps import Results, title
from diffusion_jax.runtime import lock, processes
from diffusion_jax.runtime.compiling import precision_in_use
from diffusion_jax.runtime.files import (
  make_folder,
  write_json,
)
from diffusion_jax.training import checksums

# Fields of config.sampling that change the scores of real images as well.
OF_WEIGHTS = 'ema_decay', 'ema_sigma_rel'

Fields = Json  # of a sweep, of the scores as JSON, of settings
Points = list[tuple[Fields, Model]]  # ({field: value}, model)


def run(config: Node, workdir: str | Path) -> None:
  """Writes evaluation/<metric>-<split>/ for each metric of real images.

  Metrics of generated images share evaluation/samples/. A sweep writes a folder
  for each point inside these folders, and a table into the first.
  """
  model = models.make(config, workdir)
  if not config.evaluation.metrics:
    names = ', '.join(model.schema.metrics)
    raise UserError(f'config.evaluation.metrics is empty: give one of {names}')
  of_models = scoring.of_models(model)
  every = scoring.of_samples(model)
  of_pairs = [x for x in every if scoring.is_of_pairs(x)]
  of_samples = [x for x in every if not scoring.is_of_pairs(x)]
  scoring.check_needs(model, every)
  points: Points = [
    (changes, models.make(point, workdir, model.facts))
    for changes, point in sweep(config)
  ]
  idle = [field for field in points[0][0] if field not in OF_WEIGHTS]
  if idle and not every:
    raise UserError(
      f'config.evaluation.sweep: {idle[0]} changes samples, and no metric of '
      f'evaluation.metrics={",".join(config.evaluation.metrics)} is of samples'
    )
  groups = {'samples': of_samples, 'pairs': of_pairs, 'examples': of_models}
  kinds = [kind for kind, metrics in groups.items() if metrics]
  for _, point in points:
    point.check('evaluate')
    refuse(unread.of_evaluation(point.config, workdir, kinds))
    if of_samples:  # before features of real images are computed
      weights.restore(point)
  make_folder(workdir, 'evaluation')
  if of_samples and (of_pairs or of_models):
    datasets.source_of(config, config.evaluation.split)
  results: Results = {title(changes): {} for changes, _ in points}
  if of_samples:
    # Missing weights or data are noticed before the images are drawn.
    spaces = scoring.prepare(model, of_samples) if processes.is_first() else {}
    processes.wait_for_all('features of real images')
    for changes, point in points:
      with opened(point, 'samples', changes) as out:
        results[title(changes)] |= score_samples(point, of_samples, spaces, out)
      processes.wait_for_all(f'scores {title(changes)}')
  if of_pairs:
    for changes, point in points:
      with opened(point, 'pairs', changes) as out:
        results[title(changes)] |= evaluate_pairs.score(point, of_pairs, out)
      processes.wait_for_all(f'calibration {title(changes)}')
  measured: dict[str, Fields] = {}  # by the fields that choose weights
  for changes, point in points if of_models else ():
    own = {f: value for f, value in changes.items() if f in OF_WEIGHTS}
    if title(own) not in measured:
      measured[title(own)] = score_point(point, of_models, own)
    if own:
      results[title(changes)] |= measured[title(own)]
  if len(points) > 1 and all(results.values()) and processes.is_first():
    first = 'samples' if of_samples else 'pairs' if of_pairs else ''
    below = folder_of(model, first or next(iter(of_models)))
    out = make_folder(workdir, below)
    sweeps.write(out, [changes for changes, _ in points], results)


def folder_of(model: Model, metric: str, changes: dict | None = None) -> Path:
  """Returns the path in the run of a metric, or 'samples', at a point."""
  c = model.config.evaluation
  parts = (metric,) if metric in ('samples', 'pairs') else (metric, c.split)
  name = '-'.join(filter(None, (*parts, c.name)))
  return Path('evaluation', name, title(changes or {}))


@contextlib.contextmanager
def opened(model: Model, metric: str, changes: dict) -> Iterator[Path]:
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
  model: Model,
  metrics: list[scoring.Scored],
  spaces: dict[str, scoring.Space],
  out: Path,
) -> Fields:
  """Draws the images of a point, and writes their scores into result.json.

  Images that exist with these settings are kept. Returns the scores as JSON in
  the first process, {} in the others.
  """
  path = evaluate_pairs.draw(
    model, out, num_samples=model.config.evaluation.num_generated
  )
  if not processes.is_first():
    return {}
  c = model.config.evaluation
  needs = {need for each in metrics for need in each.metric.needs}
  any_shape = not model.facts.x.is_picture
  stored = image_sets.read(path, needs, any_shape)
  drawn = provenance.read(path)
  samples, size = dict(stored.arrays), c.batch_size
  if not needs.isdisjoint(('images', 'values')):
    samples['values'] = np.concatenate(list(stored.batches(size)))
    samples['images'] = samples['values']
  with from_config('evaluation.metrics'):
    extracted = {
      name: references.extract(
        space.extractor, stored, out / f'{name}.npz', drawn, size
      )
      for name, space in spaces.items()
      if space.extractor is not None
    }
  scores = scoring.score(metrics, spaces, samples, extracted)
  floor = scoring.floor(metrics, spaces, c.num_generated) if c.floor else []
  protocol = {n: space.protocol for n, space in spaces.items() if n}
  write_json(out / 'result.json', {
    'protocol': {'samples': drawn, 'reference': protocol},
    'matmul_precision': precision_in_use() or 'default',
    'metrics': as_json(scores),
    **({'floor': as_json(floor)} if c.floor else {}),
  })  # fmt: skip
  print(table(scores))
  if floor:
    print('real images of the other split in place of samples:')
    print(table(floor))
  what = 'images' if model.facts.x.is_picture else 'samples'
  print(f'{stored.shape[0]:,} {what}; {provenance.describe(drawn)}')
  print(*map(in_words, protocol.values()), out / 'result.json', sep='\n')
  return as_json(scores)


def in_words(protocol: Fields) -> str:
  """Returns a line about the features and the images that are compared with."""
  x = protocol
  return (
    f'against {x["features"]} ({x["preprocessing"]}; weights {x["weights"]}) '
    f'of {x["images"]:,} {x["split"]} images of {x["data"]["name"]}'
  )


def score_point(
  model: Model, metrics: dict[str, ModelMetric], changes: Fields
) -> Fields:
  """Scores real images by one set of weights, and writes result.json.

  Returns the scores as JSON in the first process, {} in the others.
  """
  c = model.config.evaluation
  results: Fields = {}
  source = datasets.source_of(model.config, c.split)
  count = min(c.num_images or len(source), len(source))
  run = weights.opened(model, 'evaluate')
  with from_config('data'):
    examples = content_sum(source, count)
  read = {'examples': examples}
  measured = Measured(run, source, count, read, run.on_devices())
  for name, metric in metrics.items():
    with opened(model, name, changes) as out:
      results |= score_images(measured, name, metric, out)
  return results


class Measured(NamedTuple):
  """The first `count` examples of a source, and the run that they score.

  read: the sums of what was read, by name; params: on the devices.
  """

  run: weights.Opened
  source: Source
  count: int
  read: Mapping[str, str]
  params: Params


def score_images(
  measured: Measured, name: str, metric: ModelMetric, out: Path
) -> Fields:
  """Writes result.json of one metric; returns its scores as `score_point`."""
  run, source, count, read, params = measured
  model, c, parts = run.model, run.model.config.evaluation, out / 'parts'
  with from_config(f'evaluation.{name}'):
    watched, more = watch(model.measured)
    measure = metric.measure(watched)
  settings = settings_of(measured._replace(read={**read, **more}), name)
  if processes.is_first():
    provenance.check_parts(parts, settings, 'evaluation.name')
  with from_config(f'evaluation.{name}'):  # what the metric refuses
    arrays = real_images.arrays_of(
      measure,
      name,
      params,
      functools.partial(
        pipeline.examples,
        source,
        text_length=datasets.text_length(model.config),
        facts=model.facts,
      ),
      count,
      parts,
      run.mesh,
      encode=model.facts.x.encode,
      seed=c.seed,
      size=c.batch_size,
      condition=model.conditioning.image,
      settings=provenance.as_array(settings),
    )
  if arrays is None:
    return {}
  scores = metric.compute(arrays)
  print(table(scores))
  about = {
    'metric': name, 'split': c.split, 'images': count,
    'matmul_precision': precision_in_use() or 'default', 'settings': settings,
  }  # fmt: skip
  more = {'metrics': as_json(scores)}
  more = metric.report(arrays, out) if metric.report else more
  write_json(out / 'result.json', about | more)
  print(
    f'{count} {c.split} images, '
    f'matmul_precision={about["matmul_precision"]}: '
    f'{out / "result.json"}'
  )
  return as_json(scores)


def watch(measured: Any) -> tuple[Any, dict[str, str]]:
  """Returns what a metric measures, and a dict of sums of the splits it reads.

  The dict is filled while the metric reads them.
  """
  watched, sums = copy.copy(measured), {}

  def source(split='train'):
    found = measured.source(split)
    sums[split] = content_sum(found)
    return found

  object.__setattr__(watched, 'source', source)  # of a frozen dataclass
  return watched, sums


def settings_of(measured: Measured, name: str) -> provenance.Settings:
  """Returns all that a metric's numbers of real images depend on."""
  model = measured.run.model
  evaluation = folder.plain(model.config)['evaluation']
  fields = 'metrics', 'split', 'num_images', 'batch_size', 'seed', name
  used = {n: evaluation[n] for n in fields}
  used['metrics'] = [x for x in used['metrics'] if name_of(x) == name]
  sampling = model.config.sampling
  variance = (sampling.get('sampler') or {}).get('variance', 'fixed_small')
  return provenance.settings(
    model,
    checksums.of_arrays(measured.run.params),
    {
      'evaluation': used,
      'sampling': {'variance': variance, 'clip': sampling.get('clip')},
    },
    measured.read,
  )

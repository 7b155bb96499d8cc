"""Implements --mode=evaluate: scores a trained run, or its samples.

An interrupted evaluation continues with the samples and batches of real images
that it has written.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app import models, scoring
from diffusion_jax.app.config import folder, own, store
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.model import Model
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.data import image_sets, npz, pipeline
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import (
  calibration,
  plots,
  real_images,
  references,
  sweeps,
)
from diffusion_jax.metrics.likelihoods import ode
from diffusion_jax.metrics.metric import ModelMetric, as_json, table
from diffusion_jax.metrics.sweeps import Results, title
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.compiling import precision_in_use
from diffusion_jax.runtime.files import (
  make_folder,
  read_json,
  write_json,
  write_npz,
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
  if idle and not of_samples:
    raise UserError(
      f'config.evaluation.sweep: {idle[0]} changes samples, and no metric of '
      f'evaluation.metrics={",".join(config.evaluation.metrics)} is of samples'
    )
  for _, point in points:
    point.check('evaluate')
  results: Results = {title(changes): {} for changes, _ in points}
  if of_samples:
    # Missing weights or data are noticed before the images are drawn.
    spaces = scoring.prepare(model, of_samples) if processes.is_first() else {}
    processes.wait_for_all('features of real images')
    for changes, point in points:
      results[title(changes)] |= score_samples(
        point, of_samples, spaces, changes
      )
      processes.wait_for_all(f'scores {title(changes)}')
  if of_pairs:
    for changes, point in points:
      results[title(changes)] |= score_pairs(point, of_pairs, changes)
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
  changes: Fields,
) -> Fields:
  """Draws the images of a point, and writes their scores into result.json.

  Images that exist with these settings are kept. Returns the scores as JSON in
  the first process, {} in the others.
  """
  if changes:
    print(f'{title(changes)}:')
  below = folder_of(model, 'samples', changes)
  out = make_folder(model.workdir, below)
  path = draw(model, below, num_samples=model.config.evaluation.num_generated)
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


def draw(model: Model, below: Path, **fields: object) -> Path:
  """Draws samples with these fields of config.sampling; returns their file."""
  fields |= {'name': 'samples', 'trajectory': False}
  changes = {f'sampling.{name}': x for name, x in fields.items()}
  config = store.with_fields(model.config, changes)
  return sample.draw(config, model.workdir, below, 'evaluation.name')


def score_pairs(
  model: Model, metrics: list[scoring.Scored], changes: Fields
) -> Fields:
  """Draws for held-out pairs; writes the scores and curves of calibration.

  Returns the scores as JSON in the first process, {} in the others.
  """
  c, facts = model.config.evaluation, model.facts
  assert facts.context is not None  # else it was refused
  below = folder_of(model, 'pairs', changes)
  out = make_folder(model.workdir, below)
  source = datasets.source_of(model.config, c.split)
  index = np.arange(min(c.num_pairs, len(source)))
  with from_config('data'):
    arrays = source.read(index)
  path = out / 'context.npz'
  if processes.is_first():
    write_npz(path, {'context': arrays['context']})
  processes.wait_for_all('held-out pairs')
  own.allow([str(path)])
  fields = {'context': str(path), 'context_row': None}
  drawn = draw(model, below, num_samples=c.draws_per_pair, **fields)
  draws = npz.read(drawn, ['arr_0'])['arr_0']
  draws = draws.reshape(len(index), -1, *draws.shape[1:])
  truth = references.as_written(source, arrays['x'])
  samples = {'draws': draws}
  reference = {'truth': truth, 'context': arrays['context']}
  if any('log_q' in each.metric.needs for each in metrics):
    log_q = log_density(model, out, draws, truth, arrays['context'])
    samples['log_q'], reference['log_q'] = log_q[:, 1:], log_q[:, 0]
  if not processes.is_first():
    return {}
  scores, made = [], {each.name: each.metric for each in metrics}
  if draws.shape[1] > 1:  # calibrated draws may be as wide as the prior
    made |= {'contraction': calibration.contraction()}
  with from_config('evaluation.metrics'):
    for each in made.values():
      scores += each.compute(samples, reference)
  levels = calibration.all_levels(samples, reference)
  plots.plot_ranks(out / 'ranks.png', levels.pop('ranks'))
  plots.plot_coverage(out / 'coverage.png', levels)
  write_json(out / 'result.json', {
    'pairs': len(index),
    'draws_per_pair': c.draws_per_pair,
    'split': c.split,
    'metrics': as_json(scores),
  })  # fmt: skip
  print(table(scores))
  print(f'{out / "result.json"}')
  return as_json(scores)


def log_density(
  model: Model,
  out: Path,
  draws: np.ndarray,
  truth: np.ndarray,
  context: np.ndarray,
) -> np.ndarray:
  """Returns log q of the truth and its draws, nats, [M, 1 + n].

  By the ODE, up to a constant.
  """
  facts, c = model.facts, model.config.evaluation
  assert facts.context is not None
  each = np.concatenate([truth[:, None], draws], axis=1)
  flat, rows = each.reshape(-1, *truth.shape[1:]), each.shape[1]
  encoded = facts.context.encode(context)
  run = weights.opened(model, 'evaluate')
  arrays = real_images.arrays_of(
    ode(box_draws=0).measure(model.measured),
    'ode',
    run.on_devices(),
    lambda index: (flat[index], {'context': encoded[index // rows]}),
    len(flat),
    out / 'log_q',
    run.mesh,
    encode=facts.x.encode,
    seed=c.seed,
    size=c.batch_size,
  )
  if arrays is None:
    return np.zeros(each.shape[:2])
  return -arrays['nats'].reshape(each.shape[:2]) * math.prod(facts.x.shape)


def score_point(
  model: Model, metrics: dict[str, ModelMetric], changes: Fields
) -> Fields:
  """Scores real images by one set of weights, and writes result.json.

  Returns the scores as JSON in the first process, {} in the others.
  """
  if changes:
    print(f'{title(changes)}:')
  c = model.config.evaluation
  results: Fields = {}
  source = datasets.source_of(model.config, c.split)
  count = min(c.num_images or len(source), len(source))
  run = weights.opened(model, 'evaluate')
  checksum, params = checksums.of_arrays(run.params), run.on_devices()
  for name, metric in metrics.items():
    out = make_folder(model.workdir, folder_of(model, name, changes))
    if processes.is_first():
      check_same_evaluation(out, describe(model, name, checksum, count))
    with from_config(f'evaluation.{name}'):  # what the metric refuses
      arrays = real_images.arrays_of(
        metric.measure(model.measured),
        name,
        params,
        functools.partial(
          pipeline.examples,
          source,
          text_length=datasets.text_length(model.config),
          facts=model.facts,
        ),
        count,
        out / 'parts',
        run.mesh,
        encode=model.facts.x.encode,
        seed=c.seed,
        size=c.batch_size,
        condition=model.conditioning.image,
      )
    if arrays is None:
      continue
    scores = metric.compute(arrays)
    print(table(scores))
    about = {
      'metric': name, 'split': c.split, 'images': count,
      'matmul_precision': precision_in_use() or 'default',
    }  # fmt: skip
    more = {'metrics': as_json(scores)}
    more = metric.report(arrays, out) if metric.report else more
    write_json(out / 'result.json', about | more)
    print(
      f'{count} {c.split} images, '
      f'matmul_precision={about["matmul_precision"]}: '
      f'{out / "result.json"}'
    )
    results |= as_json(scores)
  return results


def describe(model: Model, metric: str, checksum: int, count: int) -> Fields:
  """Returns the settings that scores of real images depend on."""
  fields = folder.plain(model.config)
  others = *folder.USES, 'training', 'optimizer', 'facts', 'seed'
  kept = {name: x for name, x in fields.items() if name not in others}
  if kept['data']:
    kept['data'].pop('data_dir', None)
  own = metric, 'split', 'num_images', 'batch_size', 'seed'
  sampling = fields['sampling']
  variance = (sampling.get('sampler') or {}).get('variance', 'fixed_small')
  return {
    **kept,
    'evaluation': {name: fields['evaluation'][name] for name in own},
    'sampling': {'variance': variance, 'clip': sampling.get('clip')},
    'weights': checksum,
    'images': count,
  }


def check_same_evaluation(out: Path, settings: Fields) -> None:
  """Raises UserError if the folder holds another evaluation."""
  path = out / 'settings.json'
  if any((out / 'parts').glob('*')):  # else it was refused
    changed = 'settings.json is missing'
    if path.exists():
      changed = folder.differences(read_json(path), settings)
    if changed:
      raise UserError(
        f'{out} holds another evaluation: {changed}. Delete it, or give this '
        'one a --config.evaluation.name'
      )
  write_json(path, settings)

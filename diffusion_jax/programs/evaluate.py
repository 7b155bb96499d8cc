"""Implements --mode=evaluate: measures a trained run.

A metric of real images is computed image by image, a batch at a time; a batch
that is written is not computed again, so an interrupted evaluation continues.
Measures of generated images are in `evaluate_samples`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_jax import build, families
from diffusion_jax.build import audit
from diffusion_jax.build.make import choose
from diffusion_jax.core.keys import stream
from diffusion_jax.data.images import scale
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError
from diffusion_jax.programs import evaluate_samples, sample
from diffusion_jax.runs import measures, processes, run_folder
from diffusion_jax.runs.per_image import PerImage, one_ahead, per_image
from diffusion_jax.training import checksums
from diffusion_jax.runtime.sharding import replicate

# Fields of config.evaluation on which metrics of real images do not depend.
OF_SAMPLES = (
  'num_generated',
  'features',
  'weights',
  'reference',
  'num_draws',
  'sweep',
)

# Fields of config.sampling on which metrics of real images depend as well.
WEIGHTS = ('ema_decay', 'ema_sigma_rel')


def run(config, workdir):
  """Writes evaluation/<metric>-<split>/ for each of evaluation.metrics.

  Those of generated images are together in evaluation/samples/. A sweep has a
  folder for each point within these, and its table in the last of them.
  """
  config = run_folder.run_config(workdir, config, own=run_folder.COMPUTED_BY)
  of_images, of_samples = split_metrics(config)
  check(config, of_images, of_samples)
  points = list(evaluate_samples.sweep(config))
  results: Any = {evaluate_samples.as_title(point): {} for point, _ in points}
  out = None
  if of_samples:
    chosen = config.copy_and_resolve_references()
    chosen.evaluation.metrics = of_samples
    out, measured = evaluate_samples.run(chosen, workdir)
    results |= measured
  if of_images:
    first, measured = evaluate_points(config, workdir, of_images, points)
    results = {title: results[title] | measured[title] for title in results}
    out = out or first
  if len(points) > 1 and all(results.values()):
    changes = [point for point, _ in points]
    evaluate_samples.report_sweep(out, changes, results)


def evaluate_points(config, workdir, metrics, points):
  """Measures real images at the points of a sweep that change the weights.

  Returns the folder of the first metric, and {title of a point: bits/dim of
  each metric}, empty where the sweep does not change weights and in all
  processes but the first.
  """
  folders, results = {}, {}
  for changes, point in points:
    own = evaluate_samples.as_title(
      {field: x for field, x in changes.items() if field in WEIGHTS}
    )
    if own not in folders:
      if own:
        print(f'{own}:')
      chosen = point if own else config
      folders[own] = evaluate_images(chosen, workdir, metrics, own)
    title = evaluate_samples.as_title(changes)
    swept = own and processes.is_first()
    results[title] = read_bits(folders[own]) if swept else {}
  first = next(iter(folders.values()))[0]
  return first if '' in folders else first.parent, results


def read_bits(folders):
  """Returns {metric: value and error} of the results that are in bits/dim."""
  found = {}
  for folder in folders:
    result = json.loads((folder / 'result.json').read_text())
    if 'bits_per_dim' in result:
      found[result['metric']] = {
        'value': result['bits_per_dim'],
        'error': result['standard_error'],
      }
  return found


def split_metrics(config):
  """Returns evaluation.metrics of real images, and those of samples."""
  c, family = config.evaluation, families.of(config)
  of_images, of_samples = [], []
  for metric in build.words(c.metrics):
    known = measures.find(metric, c.features)
    own = metric in family.metrics or known is None
    (of_images if own else of_samples).append(metric)
  return tuple(of_images), tuple(of_samples)


def evaluate_images(config, workdir, metrics, title=''):
  """Measures real images by each of `metrics`, and returns their folders.

  title: of a point of a sweep, which has a folder of its own.
  """
  c = config.evaluation
  mesh = build.build_mesh(config)
  source = build.build_source(config, c.split)
  params = sample.restore(config, workdir)
  count = min(c.num_images or len(source), len(source))
  settings = describe(config, params, count)
  params = replicate(mesh, params)
  folders = []
  for metric in metrics:
    name = '-'.join(filter(None, (metric, c.split, c.name)))
    out = run_folder.prepare(Path(workdir) / 'evaluation' / name / title)
    folders.append(out)
    if processes.is_first():
      (out / 'parts').mkdir(exist_ok=True)
      check_same_evaluation(out, settings)
    measure = make_measure(metric, config, mesh)
    paths = measure_parts(config, measure, metric, params, source, count, out)
    if processes.is_first():
      report = families.of(config).metrics[metric].report
      report(gather(paths), config, out)
  return folders


def measure_parts(config, measure, metric, params, source, count, out):
  """Measures images 0..count - 1, and returns the files with the results.

  Parts that are in out/parts are kept.
  """
  size = config.evaluation.batch_size
  starts = range(0, count, size)
  paths = [out / 'parts' / f'{start:08d}.npz' for start in starts]
  # all processes compute the same parts, those that the first one misses
  missing = processes.broadcast([not path.exists() for path in paths])

  def index_of(i):
    return np.arange(starts[i], min(starts[i] + size, count))

  def begin(i):
    with build.from_config('data'):
      pictures, cond = read(config, source, index_of(i))
    with build.from_config('evaluation'):  # what the metric refuses
      return measure.start(params, index_of(i), pictures, cond)

  with tqdm(total=sum(missing), desc=metric, unit='batch', disable=None) as bar:
    for i, result in one_ahead(begin, np.flatnonzero(missing)):
      check_numbers(metric, result, index_of(i))
      if processes.is_first():
        run_folder.write_npz(paths[i], result)
      bar.update()
  return paths


def gather(paths):
  """Reads {name: array} of all parts, joined."""
  parts = []
  for path in paths:
    with np.load(path) as arrays:
      parts.append(dict(arrays))
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def check(config, of_images, of_samples):
  """Raises UserError for metrics that are not of the run's models."""
  family = families.of(config)
  if not of_images + of_samples:
    raise UserError(
      f'config.evaluation.metrics is empty: give {" or ".join(family.metrics)}'
    )
  for metric in of_images:
    known = dict.fromkeys(families.METRICS + measures.names())
    choose(known, 'evaluation', 'metrics', metric)
  family.check(config)
  if of_samples:
    evaluate_samples.check(config, of_samples)
  if not of_images:
    return
  chosen = config.copy_and_resolve_references()
  chosen.evaluation.metrics = of_images
  family.check_mode(chosen, 'evaluate')
  for metric in of_images:
    if metric not in family.metrics:
      raise UserError(
        f'config.evaluation.metrics: this run is {family.name}, and {metric} '
        f'is not measured of it: take {" or ".join(family.metrics)}'
      )


def check_numbers(metric, result, index):
  """Raises UserError for NaN, before it is written."""
  if any(np.isnan(values).any() for values in result.values()):
    ode = ': try a larger evaluation.tolerance, or t_min'
    hint = ode if metric == 'ode' else ''
    raise UserError(f'{metric} is nan on images {index[0]}..{index[-1]}{hint}')


def describe(config, params, count):
  """Returns what the result depends on, as JSON gives it back."""
  fields = run_folder.plain(config)
  chosen = {name: fields[name] for name in run_folder.RUN_SECTIONS}
  del chosen['data']['data_dir'], chosen['data']['num_threads']
  evaluation = fields['evaluation']
  for free in ('metrics', 'name', *OF_SAMPLES):
    del evaluation[free]
  return {
    **chosen,
    'evaluation': evaluation,
    'sampling': {n: fields['sampling'][n] for n in ('variance', 'clip')},
    'weights': checksums.of_arrays(params),
    'images': count,
  }


def check_same_evaluation(out, settings):
  """Raises UserError if another evaluation has begun in the folder."""
  path = out / 'settings.json'
  if any((out / 'parts').glob('*')):  # one that was refused has none
    found = json.loads(path.read_text())
    changed = run_folder.differences(audit.rename_fields(found), settings)
    if changed:
      raise UserError(
        f'{out} holds another evaluation: {changed}. Delete it, or give this '
        'one a --config.evaluation.name'
      )
  run_folder.write_json(path, settings)


def read(config, source, index):
  """Reads (images uint8, cond of labels and texts) at index [n].

  A network takes of cond what it is conditioned on.
  """
  pictures, labels = source.read(index)
  cond = {} if labels is None else {'label': labels}
  if config.conditioning.text:
    length = build.text_length(config)
    cond['text'], cond['text_mask'] = encode(source.texts(index), length)
  return pictures, cond


def make_measure(metric, config, mesh):
  """Returns a `PerImage` of (params, index [n], images, cond).

  Arrays [n, T] of the metric are summed over the images, to [1, T]. What is
  computed of an image depends on its index, not on its batch.
  """
  measure = families.of(config).metrics[metric].measure(config)
  seed = config.evaluation.seed
  roots = stream(seed, 'evaluation_images'), stream(seed, metric)

  def function(params, keys, inputs):
    (image_keys, keys), (x0, cond) = keys, inputs
    cond = with_image(config, image_keys, x0, cond)
    return measure(params, keys, x0, cond)

  compute = per_image(function, mesh, roots, config.evaluation.batch_size)

  def start(params, index, pictures, cond):
    x0 = scale(pictures, config.data.num_levels)
    fetch = compute.start(params, index, (x0, cond))
    return lambda: {
      name: x if x.ndim == 1 else x.sum(axis=0, keepdims=True)
      for name, x in fetch().items()
    }

  return PerImage(start)


def with_image(config, keys, x0, cond):
  """Adds cond['image'], on which the bits of such a network are conditioned."""
  make = build.build_image_condition(config)
  if make is None:
    return cond
  return cond | {'image': make(keys, x0)}

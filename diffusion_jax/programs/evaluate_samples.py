"""--mode=evaluate: measures of generated images, at one or many settings.

The images are drawn and kept as `--mode=sample` does, a batch at a time, so
that an interrupted evaluation continues; features of real images are in a cache
(`runs.references`).
"""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from diffusion_jax import build, families
from diffusion_jax.build import audit
from diffusion_jax.build.make import choose
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, image_sets, plots, scores
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.image_sets import ImageSet
from diffusion_jax.programs import sample
from diffusion_jax.runs import (
  measures,
  processes,
  provenance,
  references,
  run_folder,
  sample_inputs,
)


class Space(NamedTuple):
  """Holds features to measure in: how they are made, and those of real images.

  held_out: features of the split that is not the reference, for memorisation.
  """

  extractor: Extractor
  reference: scores.Described
  protocol: dict[str, Any]
  held_out: np.ndarray | None


def run(config, workdir):
  """Writes evaluation/samples/, or for a sweep a folder for each point in it.

  evaluation.name is appended to the name of the folder. Returns it, and
  {title of a point: its metrics}, {} in all processes but the first.
  """
  c = config.evaluation
  name = '-'.join(filter(None, ('samples', c.name)))
  out = run_folder.prepare(Path(workdir) / 'evaluation' / name)
  # what is missing is noticed before the images are drawn
  spaces = prepare(config) if processes.is_first() else {}
  processes.wait_for_all('features of real images')
  results = {}
  for changes, point in sweep(config):
    title = as_title(changes)
    if title:
      print(f'{title}:')
    results[title] = evaluate(point, workdir, out / title, spaces)
    processes.wait_for_all(f'measures {title}')
  return out, results


def as_title(changes):
  """Returns 'num_steps=2,ema_decay=0.5' for the changes of a point."""
  return ','.join(f'{field}={value}' for field, value in changes.items())


def prepare(config) -> dict[str, Space]:
  """Makes the extractors of all measures, and reads or makes their references.

  Raises UserError for a measure that needs what an extractor does not have.
  """
  c = config.evaluation
  other = 'test' if c.reference == 'train' else 'train'
  spaces = {}
  chosen = measures.chosen(config)
  for name in dict.fromkeys(measure.features for measure in chosen):
    own = {measure.name for measure in chosen if measure.features == name}
    check_needs(config, name, own)
    extractor = measures.make_extractor(config, name)
    held_out = None
    if 'memorisation' in own:
      held_out = references.load(config, extractor, other)[0].found['features']
    reference, protocol = references.load(config, extractor, c.reference)
    spaces[name] = Space(extractor, reference, protocol, held_out)
  return spaces


def check_needs(config, name, own):
  """Raises UserError for measures `own` that features do not allow."""
  if 'accuracy' in own and not sample_inputs.takes_labels(config):
    raise UserError(
      'config.evaluation.metrics: accuracy needs labels, which this run is not '
      'conditioned on'
    )
  needing = sorted(own & scores.NEEDS.keys())
  if not needing:
    return
  found = outputs(config, name)
  for measure in needing:
    key, hint = scores.NEEDS[measure]
    if key not in found:
      raise UserError(f'config.evaluation.metrics: {measure} needs {hint}')


def outputs(config, name):
  """Returns the names of what an extractor gives, as of one real image."""
  if name in features.PUBLISHED:  # without the weights, which may be missing
    return features.PUBLISHED[name]
  source = build.build_source(config, config.evaluation.reference)
  extractor = measures.make_extractor(config, name)
  with build.from_config('evaluation'):
    return extractor.extract(next(references.real_images(config, source, 1)))


def sweep(config):
  """Yields ({field: value}, config) of each point of evaluation.sweep.

  Of every combination of the lists that are not empty.
  """
  c = config.evaluation.sweep
  lists = {
    'sampler': build.words(c.sampler),
    'num_steps': c.num_steps,
    'guidance_scale': c.guidance_scale,
    'ema_decay': c.ema_decay,
    'ema_sigma_rel': c.ema_sigma_rel,
  }
  lists = {field: values for field, values in lists.items() if values}
  for values in itertools.product(*lists.values()):
    changes = dict(zip(lists, values, strict=True))
    point = config.copy_and_resolve_references()
    for field, value in changes.items():
      point.sampling[field] = value
    if 'sampler' in changes:  # eta, say, belongs to another one
      audit.drop_unused(point, ('sampling',))
    if changes:
      audit.audit(point)
    yield changes, point


def evaluate(config, workdir, out, spaces) -> dict[str, dict]:
  """Draws the images of a point and measures them in all spaces.

  Images that were drawn before with these settings are kept. Returns the
  metrics of result.json; {} in all processes but the first.
  """
  c = config.evaluation
  config = config.copy_and_resolve_references()
  config.sampling.num_samples = c.num_generated
  config.sampling.name = 'samples'
  config.sampling.trajectory = False
  path = sample.draw(config, workdir, out, 'evaluation.name')
  if not processes.is_first():
    return {}
  found, drawn = image_sets.read(path), provenance.read(path)
  rows = []
  for name, space in spaces.items():
    known = describe(config, found, space.extractor, out / f'{name}.npz', drawn)
    rows += measure_rows(config, name, space, known, c.num_draws)
  used = {name: space.protocol for name, space in spaces.items()}
  result = {
    'protocol': {'samples': drawn, 'reference': used},
    'metrics': scores.as_json(rows),
  }
  run_folder.write_json(out / 'result.json', result)
  print(scores.table(rows))
  print(line(config, drawn, used))
  print(f'{out / "result.json"}')
  return result['metrics']


def measure_rows(config, name, space, known, num_draws):
  """Returns the scores of all measures in a space, named with its features."""
  setting = scores.Setting(space.held_out, num_draws=num_draws)
  rows = []
  for measure, own in measures.chosen(config):
    if own != name:
      continue
    try:
      rows += scores.score(measure, known, space.reference, setting)
    except ValueError as error:
      raise UserError(f'config.evaluation.metrics: {error}') from error
  return [row._replace(name=measures.row_name(row.name, name)) for row in rows]


def describe(config, found: ImageSet, extractor, path, drawn):
  """Returns the features of the samples; computed once for these images."""
  labels = found.arrays.get('labels')
  protocol = {**extractor.identity, 'samples': drawn}
  if path.exists():
    with np.load(path) as arrays:
      kept = dict(arrays)
    if json.loads(str(kept.pop('protocol'))) == protocol:
      return scores.Described(kept, labels)
  size = config.evaluation.batch_size
  with (
    tqdm(
      total=found.shape[0],
      desc=extractor.identity['features'],
      unit='image',
      disable=None,
    ) as bar,
    build.from_config('evaluation'),
  ):
    arrays = features.join(
      features.each(extractor, found.batches(size), bar.update)
    )
  run_folder.write_npz(path, {**arrays, 'protocol': json.dumps(protocol)})
  return scores.Described(arrays, labels)


def line(config, drawn, used):
  """Returns the protocol in a line."""
  c = config.sampling
  steps = c.respacing or f'{c.num_steps} steps'
  width = c.ema_sigma_rel
  decay = f' {c.ema_decay}' if c.ema_decay else ''
  decay = decay if width is None else f' of relative width {width}'
  average = f'averaged weights{decay}' if c.ema else 'weights without average'
  against = '; '.join(
    f'{of["features"]} ({of["preprocessing"]}; weights {of["weights"]}) of '
    f'{of["images"]:,} {of["split"]} images of {of["data"]["name"]}'
    for of in used.values()
  )
  return (
    f'{c.num_samples:,} images of {drawn["run"]}, checkpoint '
    f'{drawn["sampling"]["checkpoint"]}, {c.sampler}, {steps}, guidance '
    f'{c.guidance_scale:g}, {average}, seed {c.seed}; against {against}'
  )


def report_sweep(out, points, results):
  """Writes sweep.json and sweep.png, and prints a table of all points.

  points: [{field: value}]; results: {title: {metric: {'value': ...}}}, in the
  same order. Of widths of averages alone the plot is against the width.
  """
  rows = [
    {'point': changes, 'metrics': metrics}
    for changes, metrics in zip(points, results.values(), strict=True)
  ]
  run_folder.write_json(out / 'sweep.json', {'points': rows})
  shown = list(rows[0]['metrics'])
  width = max(len(title) for title in results)
  print(f'{"":{width}} ' + ' '.join(f'{name:>17}' for name in shown))
  for title, metrics in results.items():
    values = (metrics[name]['value'] for name in shown)
    print(f'{title:{width}} ' + ' '.join(f'{x:17.5g}' for x in values))
  values, errors = (
    {
      name: np.array([row['metrics'][name][key] for row in rows])
      for name in shown
    }
    for key in ('value', 'error')
  )
  if all(list(changes) == ['ema_sigma_rel'] for changes in points):
    widths = [changes['ema_sigma_rel'] for changes in points]
    plots.plot_widths(out / 'sweep.png', widths, values, errors)
  else:
    plots.plot_sweep(out / 'sweep.png', list(results), values)
  print(f'{out}/sweep.json, sweep.png')


def check(config, metrics):
  """Raises UserError for measures that the run's models do not have."""
  family = families.of(config)
  if metrics and not family.makes_images:
    raise UserError(
      f'config.evaluation.metrics: {family.name} makes no images to measure by '
      f'{metrics[0]}'
    )
  measures.chosen(config)
  c = config.evaluation
  choose(('train', 'test'), 'evaluation', 'reference', c.reference)
  audit.audit(config)
  list(sweep(config))


def make_measure(config):
  """Returns (images uint8 [N, H, W, C], labels [N] or None) -> {name: score}.

  Scores have no errors, which would cost further distances.
  """
  spaces = prepare(config)
  size = config.evaluation.batch_size

  def measure(pictures, labels):
    found = image_sets.from_array('samples', pictures)
    rows = []
    for name, space in spaces.items():
      parts = features.each(space.extractor, found.batches(size))
      known = scores.Described(features.join(parts), labels)
      rows += measure_rows(config, name, space, known, 0)
    return {row.name: row.estimate.value for row in rows}

  return measure

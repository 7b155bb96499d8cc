"""Losses of exact denoisers, which say whether the loss of a training is good."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import roles
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.training import held_out_batches
from diffusion_jax.app.run import provenance
from diffusion_jax.data.sources import Source, drawn_anew
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.losses import (
  INFINITE,
  QUARTERS,
  finite,
  parts_of,
  shown,
  table,
  values_of,
)
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.files import read_summed, write_summed
from diffusion_jax.testing import floors
from diffusion_jax.testing.floors import Fit

DrawnAt = Callable[[int], tuple[jax.Array, dict]]  # the key and the batch of an index
# The losses of exact denoisers, {line: {part of a loss: estimate}}.
Lines = dict[str, dict[str, Estimate]]
FILE = 'loss_floors.json'


def beside(
  model: Model, mesh: Mesh, split: str, size: int, drawn_at: DrawnAt
) -> Callable[[], dict[str, str]]:
  """Returns () -> what is printed after losses by their names.

  The first call prints the losses of exact denoisers, `of_run`, or with training.verbose=False
  where they are.
  """

  @functools.cache
  def notes():
    if model.losses is None:
      return {}
    content, verbose = of_run(model, mesh, split, size, drawn_at), model.config.training.verbose
    tqdm.write(described(content) if verbose else in_short(content))
    return notes_of(content, verbose)

  return notes


def of_run(model: Model, mesh: Mesh, split: str, size: int, drawn_at: DrawnAt) -> Json:
  """Returns the losses of exact denoisers, as loss_floors.json has them.

  Each belongs to the loss of metrics.jsonl with its name. Losses of `split` have
  the batches, of `size` examples, and the keys of its loss. Losses for the training
  are on as many training examples, whose conditions are dropped as in training.
  The file is written again only if data or objective have changed.
  """
  path, settings = model.workdir / FILE, settings_of(model, split, size)
  kept = read(path)
  if settings['checksum'] and not provenance.changed(kept.get('settings', {}), settings):
    return kept
  begun, noisy = time.monotonic(), model.noisy
  assert noisy is not None
  source = datasets.source_of(model.config)
  content: Json = {'settings': settings, 'losses': {}, 'no_floor': []}
  words = floors.no_floor(noisy.reads, model.facts)
  if not floors.lines_of(noisy.reads, model.facts):
    content['no_floor'] = [words]
  else:
    with from_config('data'):
      fitted = floors.of_source(source, model.facts, noisy.reads)
    changes = changes_of(model, source)
    metric, sets = measure(model, mesh, fitted, settings['batches'], drawn_at, not changes)
    for name, lines in zip((f'{split}_{metric}', metric), sets, strict=False):
      content['losses'] |= by_name(name, lines)
    content['no_floor'] = [f'memorised has {words}'] * bool(words)
    content['no_floor'] += [
      f'{line} {floors.INFINITE}' for line in noisy.infinite_floors if line in fitted.lines
    ]
    content['no_floor'] += [f'{metric} has no floor: {changes}'] * bool(changes)
    content |= {
      'given': [floors.READ[name] for name in noisy.reads],
      'linear': fitted.limit,
      'examples': len(fitted.examples),
    }
  content['settings'] = provenance.finished(settings)
  content['seconds'] = round(time.monotonic() - begun, 2)
  write_summed(path, content)
  return content


def settings_of(model: Model, split: str, size: int) -> Json:
  """Returns all that the losses depend on."""
  fields, facts, c = folder.plain(model.config), model.facts, model.config.training
  content = {
    'split': split,
    'batches': held_out_batches(c),
    'batch_size': size,
    'random_flip': c.random_flip,
    'seed': model.config.seed,
    'examples': facts.examples,
    'checksum': facts.checksum,
    'x': folder.stored_form(model.config, facts)['facts']['x'],
    **{name: fields[name] for name in roles.OF_LOSS if name in fields},
  }
  return provenance.made_of(model.config, content)


def changes_of(model: Model, source: Source) -> str:
  """Returns how training examples differ from those that a denoiser memorises; or ''."""
  how = {
    'training.random_flip mirrors': bool(model.config.training.random_flip),
    'conditioning.augment changes': bool(model.conditioning.augment),
    'each epoch draws anew': drawn_anew(source),
  }
  return next((f'{words} the training examples' for words, changed in how.items() if changed), '')


def read(path: Path) -> Json:
  """Reads loss_floors.json; {} if it is missing or damaged."""
  try:
    return read_summed(path)
  except (OSError, UserError):
    return {}


def measure(
  model: Model, mesh: Mesh, fitted: Fit, count: int, drawn_at: DrawnAt, training: bool = True
) -> tuple[str, list[Lines]]:
  """Returns the metric, and the losses on `count` batches, and on as many training examples.

  The latter only with `training`.
  """
  assert model.losses is not None and model.noisy is not None
  held_out = model.losses(exact=True)
  in_training = model.losses(exact=True, training=True)
  infinite = model.noisy.infinite_floors
  metrics = []

  def compute(fitted, key, batch, index):
    def by_line(losses, key, batch):
      def of(fitted):
        found = losses({'network': fitted}, key, batch)
        metrics.append(floors.metric_of(found))
        return values_of(found, metrics[0])

      return floors.by_line(of, fitted)

    sets = [finite(by_line(held_out, key, batch), infinite)]
    if training:
      rows = fitted.rows(index, batch['x'].shape[1:])
      sets.append(by_line(in_training, jax.random.fold_in(key, 1), rows))
    return sets

  compute = jax.jit(compute, compiler_options=compiling.options(mesh, 'once'))
  order, results = np.random.default_rng(0).permutation(len(fitted.examples)), []
  for i in range(count):
    key, batch = drawn_at(i)
    size = len(batch['x'])
    index = np.take(order, np.arange(i * size, (i + 1) * size), mode='wrap')
    results.append(compute(fitted, key, batch, index))
  arrays = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(results))
  return metrics[0], [{line: parts_of(lines[line]) for line in fitted.lines} for lines in arrays]


def by_name(name: str, lines: Lines) -> Json:
  """Returns {name of a loss in metrics.jsonl: {line: {value, error}}}; None if not finite."""

  def number(x):
    return x if np.isfinite(x) else None

  losses: Json = {}
  is_by_quarter = name.endswith('loss')  # in metrics.jsonl only the objective's loss is
  for line, parts in lines.items():
    for part, (value, error) in parts.items():
      if part != 'all' and not is_by_quarter:
        continue
      key = name if part == 'all' else f'{name}_quarter_{QUARTERS.index(part) + 1}'
      losses.setdefault(key, {})[line] = {'value': number(value), 'error': number(error)}
  return losses


def estimates_of(content: Json) -> dict[str, dict[str, Estimate]]:
  """Returns {name of a loss: {line: estimate}} of loss_floors.json."""
  return {
    name: {
      line: INFINITE
      if x['value'] is None
      else Estimate(*(float('nan') if x[n] is None else x[n] for n in Estimate._fields))
      for line, x in lines.items()
    }
    for name, lines in content['losses'].items()
  }


def described(content: Json) -> str:
  """Returns the losses as a table, and what must be said of them."""
  losses = estimates_of(content)
  lines = [*content['no_floor']]
  if losses:
    given = ''.join(f', given {x}' for x in content['given'])
    limit = f'; {floors.NOT_LEAST}{content["linear"]}' * bool(content['linear'])
    by_line = {
      line: {name: x[line] for name, x in losses.items()} for line in next(iter(losses.values()))
    }
    about = f'losses of exact denoisers{given}, on the examples of each loss'
    lines = [f'{about} ({content["seconds"]:.1f} s, {FILE}){limit}:', table(by_line), *lines]
  return '\n'.join(lines)


def in_short(content: Json) -> str:
  """Returns a line that says where the losses are, and lines of what lacks them."""
  where = f'losses of exact denoisers: {FILE}, and the report ({content["seconds"]:.1f} s)'
  return '\n'.join([where] * bool(content['losses']) + content['no_floor'])


def notes_of(content: Json, verbose: bool = True) -> dict[str, str]:
  """Returns {loss in metrics.jsonl: its exact losses, to be printed after it}.

  verbose: all of them, and else the first.
  """
  names = {
    'linear': 'a linear denoiser ' if content.get('linear') else 'the best linear denoiser ',
    'memorised': 'memorised examples ',
  }

  def note(lines):
    known = [words + shown(lines[line]) for line, words in names.items() if line in lines]
    return ', '.join(known if verbose else known[:1])

  return {name: note(lines) for name, lines in estimates_of(content).items()}

"""Implements --mode=explain: where the distance of samples to the data comes from.

One thing after another is replaced, at equal noise, until what is left is the network's and
what real examples have in place of samples. Other choices are tried one at a time, with the points
of evaluation.sweep.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.evaluate import cells, mode as evaluate, scorers
from diffusion_jax.app.evaluate.metrics_of_data import fewer, is_of
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.provenance import title
from diffusion_jax.app.run.weights import Run
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.data import image_sets
from diffusion_jax.errors import UserError, beginning
from diffusion_jax.metrics import plots, references as of_real, scoring
from diffusion_jax.metrics.distances import MOST, UNIT, Apart, apart, difference, distance
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import Score, as_json, table
from diffusion_jax.metrics.scoring import Space
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import write_summed

BOUND = 'bound_parts'
MORE = 4  # times as many steps
# If evaluation.num_generated and .num_images are not set: of each set, and of the bound.
_SAMPLES, _EXAMPLES = 500, 200
# Fields of evaluation that the mode decides.
DECIDED = {'metrics': ('fd',), 'floor': True}
NOW, NETWORK, FLOOR = 'as it is drawn', 'the network', 'other real examples'


class FeatureSpace(NamedTuple):
  """What samples are compared with: a feature space, its name, and what samples are given."""

  space: Space
  name: str
  conditions: conditions.Compared


class Change(NamedTuple):
  """Another way to draw: what it takes away, the fields of the config, and these as flags."""

  name: str
  fields: Json

  @property
  def flags(self) -> str:
    """The flags of the command line that draw so."""
    return ' '.join(f'--config.{name}={x}' for name, x in self.fields.items())


def main(run: Run) -> None:
  """Writes evaluation/explain-<hash>/result.json and parts.png, and `bound_parts` if it can."""
  points = [*asked(run)]
  run, beside = prepared(run)
  steps, others = ([*possible(run, each(run.model))] for each in (replaced, tried))
  others += points
  sets, drawn, fields = {}, {}, {}
  for change in [Change(NOW, {}), *steps]:
    fields |= change.fields
    sets[change.name], drawn[change.name] = features_of(run, fields, beside)
  for change in others:
    sets[change.name], drawn[change.name] = features_of(run, change.fields, beside)
  sets[FLOOR] = beside.space.reference['held_out']
  write(run, beside.space, sets, drawn, steps, others)
  if has_bound(run.model):
    c = run.model.config
    changes = {'evaluation.metrics': (BOUND,), 'evaluation.floor': False}
    changes['evaluation.num_images'] = c.evaluation.num_images or _EXAMPLES
    evaluate.main(run.changed(store.with_fields(c, changes)))


# -- what is drawn ---------------------------------------------------------------


def prepared(run: Run) -> tuple[Run, FeatureSpace]:
  """Returns the run with the number of samples that are compared, and their reference.

  Raises UserError for a model whose samples have no features, for fewer than two samples or
  examples of the other split, and for a flag that is not read.
  """
  model, x = run.model, run.model.facts.x
  fd = None if x.is_text or x.tokens else model.schema.metrics.get('fd')
  if fd is None or not is_of(fd, model.config, model.facts):
    raise UserError(
      f'--mode=explain compares features of samples, and those of {model.schema.kind} of these '
      'data have none: take --mode=evaluate'
    )
  for field in DECIDED:
    path = f'evaluation.{field}'
    value = store.set_in(model.config, model.run, path) if path in run.given else None
    if value is not None:
      raise UserError(f'config.{path}={value} has no effect with --mode=explain: leave it out')
  few = {f'evaluation.{name}': min(_SAMPLES, x) for name, x in fewer(model).items()}
  config = store.with_fields(model.config, {f'evaluation.{n}': x for n, x in DECIDED.items()} | few)
  if config.evaluation.num_generated > MOST:
    print(f'{MOST:,} samples are drawn: their pairs are compared')
    config = store.with_fields(config, {'evaluation.num_generated': MOST})
  metrics = ('fd', BOUND) if has_bound(model) else ('fd',)
  both = store.with_fields(config, {'evaluation.metrics': metrics})
  cells.points_of(Run(run.changed(both).model, run.given))  # refuses flags that nothing reads
  model = run.changed(store.with_fields(config, {'evaluation.sweep': ''})).model
  model.check('evaluate')
  scored = scorers.of_samples(model)
  references = scorers.prepare(model, scored)
  compared = scorers.compared(model, scorers.classes_of(model))
  references = scoring.beside(references, compared.labels)
  name = scored[0].space or ''
  space = references.spaces[name]
  count = min(config.evaluation.num_generated, len(space.reference['held_out']))
  if count < 2:
    raise UserError(f'--mode=explain needs 2 samples and 2 held-out examples: there are {count}')
  return run.changed(model.config), FeatureSpace(space, name, compared)


def replaced(model: Model) -> Iterator[Change]:
  """Yields what makes drawing inexact, each with what is exact, or nearer."""
  c = model.config
  if (grid := c.sampling.get('grid')) is not None:
    most = num_steps_of(model.noisy.process.schedule) if model.noisy else None
    number = grid.get('number')
    more = min(MORE * number, most or MORE * number) if number else most
    if more and more != number:
      choice = {} if number else {'sampling.grid': 'steps'}
      yield Change('finite steps', choice | {'sampling.num_steps': more})
  if c.network.get('dtype', 'float32') != 'float32':
    yield Change('half precision', {'network.dtype': 'float32'})


def tried(model: Model) -> Iterator[Change]:
  """Yields other choices of how to draw, one at a time."""
  c = model.config
  guidance, average = c.sampling.get('guidance'), c.training.get('average')
  if guidance is not None and guidance.get('scale', 1.0) != 1.0:
    yield Change('without guidance', {'sampling.guidance': None})
  if c.sampling.weights.name != 'raw':
    yield Change('raw weights', {'sampling.weights': 'raw'})
  for decay in (average or {}).get('more') or ():
    if decay != c.sampling.weights.get('decay'):
      yield Change(f'average of decay {decay}', {'sampling.weights.decay': decay})


def asked(run: Run) -> Iterator[Change]:
  """Yields the points of evaluation.sweep, which are other choices too.

  Raises UserError for a point that this run cannot be drawn with.
  """
  if not (text := run.model.config.evaluation.sweep):
    return
  for changes, _ in cells.sweep(run):
    point = Change(title(changes), {f'sampling.{name}': x for name, x in changes.items()})
    with beginning(f'config.evaluation.sweep={text!r}: {point.name}: '):
      check(run, point)
    yield point


def possible(run: Run, changes: Iterator[Change]) -> Iterator[Change]:
  """Yields the changes that this run can be drawn with, and says why others are left out."""
  for change in changes:
    try:
      check(run, change)
    except UserError as error:
      print(f'{change.name} is left out: {error}')
    else:
      yield change


def check(run: Run, change: Change) -> None:
  """Raises UserError for a change that this run cannot be drawn with."""
  other = run.changed(store.with_fields(run.model.config, change.fields))
  other.check('sample')
  if any(name.startswith('sampling.weights') for name in change.fields):
    weights.restore(other.model)


def features_of(run: Run, fields: Json, beside: FeatureSpace) -> tuple[np.ndarray, Json]:
  """Draws samples with other fields; returns their features [N, D], and what made them."""
  config = store.with_fields(run.model.config, fields)
  drawing = cells.drawing(config, cells.drawn_for_samples(config))
  path = evaluate.draw(run, drawing, compared=beside.conditions)
  about, size = provenance.read(path), run.model.config.evaluation.batch_size
  stored = image_sets.read(path, set(), any_shape=not run.model.facts.x.is_picture)
  kept = path.with_name(f'{path.stem}.{beside.name}.npz')
  with run_folder.hold(kept.parent, kept.name):
    arrays = of_real.extract(beside.space.extractor, stored, kept, about, size)
  return arrays['features'], about


def has_bound(model: Model) -> bool:
  """Returns whether the parts of the bound can be computed."""
  metric = model.schema.metrics.get(BOUND)
  return metric is not None and is_of(metric, model.config, model.facts)


# -- what is said ----------------------------------------------------------------


def parts_of(values: dict[str, Apart], steps: list[Change]) -> list[Score]:
  """Returns the parts of the distance of samples, which add up to it."""
  names, parts = [NOW, *(change.name for change in steps)], []
  for change, before, after in zip(steps, names, names[1:], strict=False):
    part = difference(values[before], values[after])
    parts.append(Score(change.name, part, f'{change.flags} takes it away'))
  left = difference(values[names[-1]], values[FLOOR], paired=False)
  parts.append(Score(NETWORK, left, 'what is left above real examples'))
  words = f'{len(values[FLOOR].pairs):,} of the other split in their place'
  return [*parts, Score(FLOOR, distance(values[FLOOR]), words)]


def advice(parts: list[Score], others: list[Score], flags: dict[str, str]) -> str:
  """Returns what to change first: the largest gain that is more than two errors."""
  gains = {x.name: x.estimate for x in parts if x.name != FLOOR}
  gains |= {x.name: Estimate(-x.estimate.value, x.estimate.error) for x in others}
  seen = {name: x.value for name, x in gains.items() if x.value > 2.0 * x.error}
  if not seen:
    return 'nothing is above its error: draw more samples (evaluation.num_generated)'
  first = max(seen, key=lambda name: seen[name])
  if first == NETWORK:
    return 'the network: train it for longer, or a larger one'
  return f'{first}: {flags[first]}'


def write(
  run: Run,
  space: Space,
  sets: dict[str, np.ndarray],
  drawn: dict[str, Json],
  steps: list[Change],
  others: list[Change],
) -> None:
  """Prints and writes the parts, what the other choices change, and what to change first."""
  values = {name: apart(x, space.reference['features']) for name, x in sets.items()}
  parts = parts_of(values, steps)
  changes = [Score(x.name, difference(values[x.name], values[NOW]), x.flags) for x in others]
  first = advice(parts, changes, {x.name: x.flags for x in [*steps, *others]})
  count, noun = len(values[NOW].pairs), run.model.facts.x.noun
  whole = Score(NOW, distance(values[NOW]), f'{UNIT} of {count:,} {noun}')
  print(table([whole, *parts]))
  if changes:
    print(f'one change at a time (below 0 is better):\n{table(changes)}')
  print(f'change first: {first}')
  settings = {'drawn': drawn, 'reference': space.protocol, 'held_out': space.held_out}
  with cells.making(run.model, Path('explain'), settings, 'result') as place:
    content = {
      'settings': place.finished(),
      'unit': f'{UNIT} of {space.extractor.identity["features"]}',
      'samples': count,
      'whole': as_json([whole]),
      'parts': as_json(parts),
      'changes': as_json(changes),
      'change_first': first,
    }
    plots.plot_parts(
      place.path.with_name('parts.png'),
      [(x.name, x.estimate.value, x.estimate.error) for x in parts],
      content['unit'],
    )
    write_summed(place.path, content)
    print(place.path)

"""Implements --mode=explain: where the distance of samples to the data comes from.

One thing after another is replaced, at equal noise, until what is left is the network's and
what real examples have in place of samples. Other choices are tried one at a time, with the points
of evaluation.sweep.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import overrides
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.evaluate import cells, mode as evaluate, scorers
from diffusion_jax.app.evaluate.cells import Cell
from diffusion_jax.app.evaluate.metrics_of_data import fewer, is_of
from diffusion_jax.app.evaluate.scorers import Classes
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import NOTHING, Model
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.provenance import title
from diffusion_jax.app.run.weights import Run
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.levels import NoiseLevel
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
# Fields that the mode decides.
DECIDED = {'evaluation.metrics': ('fd',), 'evaluation.floor': True}
NOW, NETWORK, FLOOR = 'as it is drawn', 'the network', 'other real examples'
START = 'start at pure noise'
SIGNAL = 1e-6  # the SNR of the first level, below which noise is an exact start


class FeatureSpace(NamedTuple):
  """What samples are compared with.

  space, name: of features; classes: of the examples, see `scorers.compared`; fields: of
  evaluation, which the distance depends on.
  """

  space: Space
  name: str
  classes: Classes | None
  fields: Json


class Change(NamedTuple):
  """Another way to draw: what it takes away, and the fields of the config.

  from_examples: whether samples start at noised training examples.
  """

  name: str
  fields: Json
  from_examples: bool = False

  @property
  def flags(self) -> str:
    """The flags of the command line that draw so."""
    if self.from_examples:
      return 'a start at noised training examples'
    texts = {name: overrides.as_text(x) for name, x in self.fields.items()}
    return ' '.join(f'--config.{name}={text}' for name, text in texts.items())


def main(run: Run) -> None:
  """Writes evaluation/explain-<hash>/result.json and parts.png, and `bound_parts` if it can."""
  given, run = run, prepared(run)
  points = [*asked(given, run)]
  beside = compared_with(run, points)
  steps, others = ([*possible(run, each(run))] for each in (replaced, tried))
  others += points
  sets, drawn, replaces = {}, {}, Change(NOW, {})
  for change in [replaces, *steps]:
    from_examples = replaces.from_examples or change.from_examples
    replaces = Change(change.name, replaces.fields | change.fields, from_examples)
    sets[change.name], drawn[change.name] = features_of(run, replaces, beside)
  for change in others:
    sets[change.name], drawn[change.name] = features_of(run, change, beside)
  sets[FLOOR] = beside.space.reference['held_out']
  write(run, beside, sets, drawn, steps, others)
  if has_bound(run.model):
    evaluate.main(run.changed(for_bound(run.model.config)))


# -- what is drawn ---------------------------------------------------------------


def prepared(run: Run) -> Run:
  """Returns the run without a sweep, with the distance as its metric and its number of samples.

  Raises UserError for a model whose samples have no features, for a flag that is not read, and
  for what an evaluation refuses.
  """
  model, x = run.model, run.model.facts.x
  fd = None if x.is_text or x.tokens else model.schema.metrics.get('fd')
  if fd is None or not is_of(fd, model.config, model.facts):
    raise UserError(
      f'--mode=explain compares features of samples, and those of {model.schema.kind} of these '
      'data have none: take --mode=evaluate'
    )
  of_metric = [path for path in run.given if path.startswith('evaluation.fd.')]
  for path in (*DECIDED, *(x for x in of_metric if x != 'evaluation.fd.features')):
    value = store.set_in(model.config, model.run, path) if path in run.given else None
    if value is not None:
      raise UserError(f'config.{path}={value} has no effect with --mode=explain: leave it out')
  if scorers.has_statistics(model.config.evaluation):
    raise UserError(
      f'config.evaluation.reference={model.config.evaluation.reference} has no examples, which '
      '--mode=explain compares samples with: leave it out'
    )
  few = {f'evaluation.{name}': min(_SAMPLES, x) for name, x in fewer(model).items()}
  few = {name: x for name, x in few.items() if name not in run.given}
  config = store.with_fields(model.config, DECIDED | few)
  if config.evaluation.num_generated > MOST:
    print(f'{MOST:,} samples are drawn: their pairs are compared')
    config = store.with_fields(config, {'evaluation.num_generated': MOST})
  metrics = ('fd', BOUND) if has_bound(model) else ('fd',)
  both = store.with_fields(config, {'evaluation.metrics': metrics})
  cells.points_of(Run(run.changed(both).model, run.given))  # refuses flags that nothing reads
  run = run.changed(store.with_fields(config, {'evaluation.sweep': ''}))
  checked(run)
  if has_bound(run.model):
    checked(run.changed(for_bound(run.model.config)))
  return run


def compared_with(run: Run, points: list[Change]) -> FeatureSpace:
  """Returns what samples of the run, and of the points of a sweep, are compared with.

  Raises UserError for fewer than two samples, or examples of the other split.
  """
  model, cell = run.model, checked(run)
  models = [model, *(changed(run, point).model for point in points)]
  classes = scorers.classes_of(scorers.with_classes(models))
  references = scorers.prepare(model, cell.scored)
  references = scoring.beside(references, scorers.compared(model, classes).labels)
  name = cell.scored[0].space or ''
  space = references.spaces[name]
  count = min(model.config.evaluation.num_generated, len(space.reference['held_out']))
  if count < 2:
    raise UserError(f'--mode=explain needs 2 samples and 2 held-out examples: there are {count}')
  fields = cell.fields['evaluation']
  fields = {**fields, 'fd': {'features': fields['fd'].get('features')}}
  return FeatureSpace(space, name, classes, fields)


def replaced(run: Run) -> Iterator[Change]:
  """Yields what makes drawing inexact, each with what is exact, or nearer."""
  model, c = run.model, run.model.config
  if (grid := c.sampling.get('grid')) is not None:
    most = num_steps_of(model.noisy.process.schedule) if model.noisy else None
    number = grid.get('number')
    more = min(MORE * number, most or MORE * number) if number else most
    if more and more != number:
      choice = {} if number else {'sampling.grid': 'steps'}
      yield Change('finite steps', choice | {'sampling.num_steps': more})
  if signal_at_start(run) > SIGNAL:
    yield Change(START, {}, from_examples=True)
  if c.network.get('dtype', 'float32') != 'float32':
    yield Change('half precision', {'network.dtype': 'float32'})


def signal_at_start(run: Run) -> float:
  """Returns the SNR of the level at which samples start; 0 if it has no meaning.

  Noised examples are x at this level for Gaussian noise of data, and no condition but a class.
  """
  model, x = run.model, run.model.facts.x
  plan = model.plan(run.checkpoint[0]) if model.noisy and model.plan else None
  if not isinstance(plan, Plan) or plan.starts or not isinstance(plan.levels, NoiseLevel):
    return 0.0
  is_of_data = model.autoencoder is NOTHING and not (x.kinds or x.manifold)
  if not is_of_data or conditions.shapes(model, 1).keys() - {'label'}:
    return 0.0
  first = plan.levels.take(0)
  keys = jax.eval_shape(functools.partial(jax.random.split, num=1), abstract_key())
  is_of_numbers = jnp.issubdtype(jax.eval_shape(plan.prior_sample, keys, first).dtype, jnp.floating)
  return float(np.max(first.snr)) if is_of_numbers else 0.0


def tried(run: Run) -> Iterator[Change]:
  """Yields other choices of how to draw, one at a time."""
  c = run.model.config
  guidance, average = c.sampling.get('guidance'), c.training.get('average')
  if guidance is not None and guidance.get('scale', 1.0) != 1.0:
    yield Change('without guidance', {'sampling.guidance': None})
  if c.sampling.weights.name != 'raw':
    yield Change('raw weights', {'sampling.weights': 'raw'})
  for decay in () if average is None else (0.0, *(average.get('more') or ())):
    if decay != c.sampling.weights.get('decay'):
      name = f'average of decay {decay}' if decay else 'the main average'
      fields = {'sampling.weights': 'average', 'sampling.weights.decay': decay}
      yield Change(name, fields)


def asked(given: Run, run: Run) -> Iterator[Change]:
  """Yields the points of evaluation.sweep, which are other choices too.

  given: the run with its sweep; run: the one of `prepared`. Raises UserError for a point that it
  cannot be drawn with, or not compared.
  """
  if not (text := given.model.config.evaluation.sweep):
    return
  for changes, _ in cells.sweep(given):
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
  other = changed(run, change)
  checked(other)
  if any(name.startswith('sampling.weights') for name in change.fields):
    weights.restore(other.model)


def changed(run: Run, change: Change) -> Run:
  """Returns the run as a change draws it."""
  return run.changed(store.with_fields(run.model.config, change.fields))


def checked(run: Run) -> Cell:
  """Returns the cell of the only metric; UserError for what an evaluation of it refuses.

  Samples must have the conditions of examples, which those of all sets share.
  """
  defaults = run.model.config.default_fields
  for path in roles.GIVEN:
    value, usual = (overrides.as_text(x) for x in (run.model.config.at(path), defaults[path]))
    if value != usual:
      raise UserError(
        f'config.{path}={value}: --mode=explain compares samples with all examples, and so they '
        f'are given what these have: set it to {usual!r}'
      )
  run.check('sample')
  (point,) = cells.points_of(run)
  evaluate.check(point)
  (cell,) = point.cells
  if cell.name == 'fd' and len(cell.scored) > 1:
    raise UserError('config.evaluation.fd.features: --mode=explain compares in one space: give one')
  return cell


def for_bound(config: Node) -> Node:
  """Returns the config of the evaluation that follows, of the parts of the bound."""
  count = config.evaluation.num_images or _EXAMPLES
  fields = {'metrics': (BOUND,), 'floor': False, 'num_images': count}
  return store.with_fields(config, {f'evaluation.{name}': x for name, x in fields.items()})


def features_of(run: Run, change: Change, beside: FeatureSpace) -> tuple[np.ndarray, Json]:
  """Draws samples in another way; returns their features [N, D], and what made them."""
  model = changed(run, change).model
  compared = scorers.compared(model, beside.classes)
  compared = compared._replace(from_examples=change.from_examples)
  drawing = cells.drawing(model.config, cells.drawn_for_samples(model.config))
  path = evaluate.draw(run, drawing, compared=compared)
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


def parts_of(values: dict[str, Apart], steps: list[Change], network: str = NETWORK) -> list[Score]:
  """Returns the parts of the distance of samples, which add up to it.

  network: the words for what is left above real examples.
  """
  names, parts = [NOW, *(change.name for change in steps)], []
  for change, before, after in zip(steps, names, names[1:], strict=False):
    part = difference(values[before], values[after])
    parts.append(Score(change.name, part, f'{change.flags} takes it away'))
  left = difference(values[names[-1]], values[FLOOR], paired=False)
  parts.append(Score(network, left, 'what is left above real examples'))
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
  if first == START:
    return f'{first}: end the schedule in more noise, and train with it'
  if first not in flags:
    return f'{first}: train for longer, or a larger one'
  return f'{first}: {flags[first]}'


def write(
  run: Run,
  beside: FeatureSpace,
  sets: dict[str, np.ndarray],
  drawn: dict[str, Json],
  steps: list[Change],
  others: list[Change],
) -> None:
  """Prints and writes the parts, what the other choices change, and what to change first."""
  space, c = beside.space, run.model.config
  values = {name: apart(x, space.reference['features']) for name, x in sets.items()}
  network = 'the network and the autoencoder' if c.get('latent') else NETWORK
  parts = parts_of(values, steps, network)
  changes = [Score(x.name, difference(values[x.name], values[NOW]), x.flags) for x in others]
  first = advice(parts, changes, {x.name: x.flags for x in [*steps, *others]})
  count, noun = len(values[NOW].pairs), run.model.facts.x.noun
  whole = Score(NOW, distance(values[NOW]), f'{UNIT} of {count:,} {noun}')
  print(table([whole, *parts]))
  if changes:
    print(f'one change at a time (below 0 is better):\n{table(changes)}')
  print(f'change first: {first}')
  settings = {'evaluation': beside.fields, 'sampling': drawn[NOW]['sampling'], 'drawn': drawn}
  settings |= {'weights': drawn[NOW]['weights']}
  settings |= {'reference': space.protocol, 'held_out': space.held_out}
  name = c.evaluation.name
  name = f'explain-{name}' if name else provenance.name_of(run.model, 'explain', ('sampling.',))
  with cells.making(run.model, Path(name), settings, 'result') as place:
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

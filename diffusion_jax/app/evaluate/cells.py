"""The cells of the table of an evaluation: a metric at a point of the sweep.

A cell is the command of its metric alone, with the fields of its point: both have the
same settings, and so the same scores and the same file.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.evaluate.scorers import Metric
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.provenance import title
from diffusion_jax.app.run.weights import Run
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.metrics import scoring
from diffusion_jax.metrics.metric import EXTRACTED, ModelMetric
from diffusion_jax.metrics.scoring import Scored

# Fields of evaluation that say which cells there are, and where they are kept.
_OF_TABLE = tuple(f'evaluation.{name}' for name in ('metrics', 'sweep', 'name'))


class Cell(NamedTuple):
  """A metric at a point.

  fields: see `fields_of`; title: the values of the sweep that these depend on.
  """

  name: str
  metric: Metric
  model: Model
  fields: Json
  title: str = ''

  @property
  def group(self) -> str:
    """What is measured: 'samples', draws for held-out 'pairs', or the model on 'examples'."""
    if isinstance(self.metric, ModelMetric):
      return 'examples'
    return 'pairs' if scoring.is_of_pairs(self.metric[0]) else 'samples'

  @property
  def scored(self) -> list[Scored]:
    """The metric in each feature space; [] for one of examples."""
    return self.metric if isinstance(self.metric, list) else []


class Point(NamedTuple):
  """A point of the sweep: {field: value}, the model as these use it, its cells."""

  changes: Json
  model: Model
  cells: list[Cell]


# -- what a cell depends on ----------------------------------------------------


def drawn_for_samples(c: Node) -> Json:
  """Returns the fields of sampling by which the images of metrics are drawn."""
  return _DRAWN | {'num_samples': c.evaluation.num_generated}


def drawn_for_pairs(c: Node) -> Json:
  """Returns the fields of sampling by which held-out pairs get their draws."""
  return _DRAWN | {
    'num_samples': c.evaluation.draws_per_pair,
    'context': '',
    'context_row': None,
  }


_DRAWN = {'name': '', 'trajectory': False, 'profile': False}


def drawing(config: Node, fields: Json) -> Node:
  """Returns the config with fields of sampling."""
  return store.with_fields(config, {f'sampling.{name}': x for name, x in fields.items()})


def fields_of(model: Model, name: str, metric: Metric) -> Json:
  """Returns the fields of evaluation and sampling that a metric's scores depend on."""
  c, evaluation = model.config, folder.plain(model.config.evaluation)
  own = next(x for x in c.evaluation.metrics if store.name_of(x) == name)
  fields = {n: evaluation[n] for n in (*_read_by(model, metric), name)} | {'metrics': [own]}
  if isinstance(metric, ModelMetric):
    sampling = folder.plain(c.sampling)
    used = {n: sampling[n] for n in ('weights', 'checkpoint')}
    used |= {n: getattr(model.measured, n) for n in metric.reads}
  else:
    is_of_pairs = scoring.is_of_pairs(metric[0])
    drawn = drawn_for_pairs(c) if is_of_pairs else drawn_for_samples(c)
    used = folder.plain(drawing(c, drawn).sampling)
  return {'evaluation': fields, 'sampling': used}


def _read_by(model: Model, metric: Metric) -> Iterator[str]:
  # The fields of evaluation, besides the metric's own section, that its arrays are made by.
  if isinstance(metric, ModelMetric):
    yield from ('split', 'num_images', 'batch_size', 'seed')
    return
  needs = {*metric[0].metric.needs}
  if scoring.is_of_pairs(metric[0]):
    yield from ('split', 'num_pairs', 'draws_per_pair')
    if model.takes_known:
      yield 'num_given'
    if 'log_q' in needs:
      yield from ('batch_size', 'seed')
    return
  yield 'num_generated'
  if needs & EXTRACTED:
    yield from ('batch_size', 'weights')
    if not metric[0].metric.features:
      yield 'features'
  if scorers.is_of_reference(metric[0]) or scorers.follows_reference(model):
    yield 'reference'
  if scoring.has_floor(metric[0]):
    yield 'floor'


# -- the table -----------------------------------------------------------------


def points_of(run: Run) -> list[Point]:
  """Returns the points of the sweep with the metrics that each one's command measures.

  Raises UserError for a flag, or a field of the sweep, that no metric reads.
  """
  points = []
  for changes, config in sweep(run):
    model = scorers.chosen(run.changed(config).model)
    metrics = scorers.named(model).items()
    cells = [Cell(n, metric, model, fields_of(model, n, metric)) for n, metric in metrics]
    points.append(Point(changes, model, cells))
  refuse(_unread(run, points))
  if not run.model.config.evaluation.name:
    return points
  read = {
    name: [field for field in points[0].changes if _is_read(points, f'sampling.{field}', name)]
    for name in {cell.name for point in points for cell in point.cells}
  }
  return [
    point._replace(cells=[_titled(cell, point, read[cell.name]) for cell in point.cells])
    for point in points
  ]


def _titled(cell, point, fields):
  return cell._replace(title=title({field: point.changes[field] for field in fields}))


def kept(cell: Cell, settings: Json) -> contextlib.AbstractContextManager[provenance.Place]:
  """Returns `provenance.making` of the scores of a cell, evaluation/<metric>-…/result.json."""
  c, name = cell.model.config.evaluation, cell.name
  if 'split' in cell.fields['evaluation']:
    name = f'{name}-{c.split}'
  if c.name:
    return making(cell.model, Path(f'{name}-{c.name}', cell.title), settings, 'result')
  # Other fields of sampling do not change the scores of real examples.
  of_weights = 'sampling.weights', 'sampling.checkpoint'
  fields = of_weights if isinstance(cell.metric, ModelMetric) else ('sampling.',)
  return making(cell.model, Path(provenance.name_of(cell.model, name, fields)), settings, 'result')


def making(
  model: Model, path: Path, settings: Json, end: str
) -> contextlib.AbstractContextManager[provenance.Place]:
  """Returns `provenance.making` of a file below evaluation/, which evaluation.name may name."""
  return provenance.making(
    model.workdir,
    Path('evaluation', path),
    settings,
    field='evaluation.name',
    given=bool(model.config.evaluation.name),
    end=f'/{end}.json',
  )


def sweep(run: Run) -> Iterator[tuple[Json, Node]]:
  """Yields ({field: value}, config) of each point of evaluation.sweep.

  The sweep lists values for fields of config.sampling, 'num_steps=10,20
  sampler=ddim'; each combination is a point. An empty sweep has one point.
  """
  config = run.model.config
  where, seen = f'config.evaluation.sweep={config.evaluation.sweep!r}', set()
  swept = store.swept(config.evaluation.sweep)
  lists = {path.removeprefix('sampling.'): values.split(',') for path, values in swept}
  for texts in itertools.product(*lists.values()):
    flags = [(f'sampling.{f}', x) for f, x in zip(lists, texts, strict=True)]
    point = store.with_flags(config, flags, trusted=False)
    values = {f: point.at(overrides.spelled(f'sampling.{f}', point.schema)) for f in lists}
    changes = {f: x.name if isinstance(x, Node) else x for f, x in values.items()}
    if (name := title(changes)) in seen:
      raise UserError(f'{where} has the point {name} twice: give each value once')
    seen.add(name)
    yield changes, point


# -- fields that are not read --------------------------------------------------


def _unread(run, points):
  # Yields a line for each flag, and each field of the sweep, that no metric reads.
  metrics = ','.join(points[0].model.config.evaluation.metrics)
  texts = {f'sampling.{field}': f'evaluation.sweep: {field}' for field in points[0].changes}
  for path in run.given:
    if path.startswith(('evaluation.', 'sampling.')) and path not in _OF_TABLE:
      texts[path] = f'{path}={store.set_in(run.model.config, run.model.run, path)}'
  for path, text in texts.items():
    if not _is_read(points, path):
      advice = _advice(points[0], path)
      yield f'config.{text} has no effect with evaluation.metrics={metrics}: {advice}'


def _is_read(points, path, metric=''):
  # Returns whether a field that the command sets changes any metric, or this one.
  is_set = False
  for point in points:
    if (model := _without(point.model, path)) is None:
      continue
    is_set, cells = True, [cell for cell in point.cells if metric in ('', cell.name)]
    if any(fields_of(model, cell.name, cell.metric) != cell.fields for cell in cells):
      return True
  return not is_set


def _without(model, path):
  # Returns the model with a field as the run has it, None if it is so already. A field that
  # has no default goes with the choice whose parameter it is.
  try:
    config = store.as_in_run(model.config, model.run, path)
    is_same = folder.plain(config) == folder.plain(model.config)
    return None if is_same else Run(model).changed(config).model
  except UserError:
    above = overrides.spelled(path, model.schema).rpartition('.')[0]
    if not getattr(model.config.at(above), 'choice', ''):
      raise
    return _without(model, above)


def _advice(point, path):
  # Returns what to do about a field that no metric reads.
  top, section, *_ = path.split('.')
  if top == 'evaluation' and section in point.model.schema.metrics:
    return f'add {section}, or leave this out'
  name = path.rpartition('.')[2]
  for cell in point.cells:
    for field in folder.flat(cell.fields['evaluation']):
      if field.rpartition('.')[2] == name and path != f'evaluation.{field}':
        return f'{cell.name} has its own, evaluation.{field}'
  return 'leave it out'

"""The points of a sweep of --mode=evaluate, and where their scores are kept."""

import contextlib
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.rules import lines
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import rules, store
from diffusion_jax.app.kinds.store import name_of
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.weights import Run
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.metrics.sweeps import title

# The section of config.sampling that changes the scores of real images as well.
OF_WEIGHTS = 'weights'

Fields = Json  # of a sweep, of the scores as JSON, of settings


class Point(NamedTuple):
  """A point of the sweep: {field: value}, and the run as these fields use it."""

  changes: Fields
  run: Run

  @property
  def of_weights(self) -> Fields:
    """The changes that choose other weights."""
    return {field: value for field, value in self.changes.items() if field.startswith(OF_WEIGHTS)}


def points_of(run: Run, kinds: list[str]) -> list[Point]:
  """Returns the points of the sweep, checked."""
  config, points = run.model.config, []
  for changes, changed in sweep(config):
    idle = [field for field in changes if not field.startswith(OF_WEIGHTS)]
    if idle and kinds == ['examples']:
      raise UserError(
        f'config.evaluation.sweep: {idle[0]} changes samples, and no metric of '
        f'evaluation.metrics={",".join(config.evaluation.metrics)} is of samples'
      )
    point = Point(changes, run.changed(changed))
    point.run.model.check('evaluate')
    rows = [rules.of_evaluation(kinds)]
    refuse(lines(rows, changed, 'evaluate', run.model.run))
    if 'samples' in kinds:  # before features of real images are computed
      weights.restore(point.run.model)
    points.append(point)
  return points


def kept(
  point: Point, metric: str, settings: Json, end: str = 'result'
) -> contextlib.AbstractContextManager[provenance.Place]:
  """Returns `provenance.making` of a metric, or 'samples' or 'pairs', at a point."""
  model = point.run.model
  c, of_samples = model.config.evaluation, metric in ('samples', 'pairs')
  is_plain = metric == 'samples' or (metric, c.split) == ('pairs', 'test')
  name = metric if is_plain else f'{metric}-{c.split}'
  if c.name:
    changes = point.changes if of_samples else point.of_weights
    path = Path(f'{name}-{c.name}', title(changes))
  else:
    fields = 'sampling.' if of_samples else f'sampling.{OF_WEIGHTS}'
    path = Path(provenance.name_of(model, name, fields))
  args = Path('evaluation', path), settings, 'evaluation.name', bool(c.name), f'/{end}.json'
  return provenance.making(model.workdir, *args)


def used(c: Node, metrics: Collection[str], *fields: str) -> Json:
  """Returns the section evaluation, as scores of some metrics depend on it."""
  plain, named = folder.plain(c), [x for x in c.metrics if name_of(x) in metrics]
  fields = *fields, *metrics, 'batch_size', 'seed'
  return {n: plain[n] for n in fields} | {'metrics': named}


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
    values = (
      (field, point.at(store.spelled(f'sampling.{field}', point.schema))) for field in lists
    )
    yield {f: x.name if isinstance(x, Node) else x for f, x in values}, point

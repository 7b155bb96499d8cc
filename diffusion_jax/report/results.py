"""Makes tables and charts of the results of --mode=evaluate."""

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.report import charts
from diffusion_jax.report.charts import Chart, Line
from diffusion_jax.report.record import Record
from diffusion_jax.runtime.files import with_error

_SPEEDS = 'images_per_second', 'tflops', 'mfu'
# The units of a likelihood, and what is measured in them.
UNITS = {'bits': 'images', 'nats': 'examples'}


class Table(NamedTuple):
  """Rows of text after a head.

  code: whether cells are code. folded: whether the table is hidden at first.
  """

  caption: str
  rows: list[list[str]]
  code: bool = False
  folded: bool = False


def in_words(name: str) -> str:
  """Returns a name in words: FD digits for fd_digits."""
  text = name.replace('_', ' ').replace('grad norm', 'gradient norm')
  text = text.replace('tflops', 'TFLOP/s of a device')
  short = r'\b(elbo|ode|iw|s?fi?d|kid|is|cmmd|mfu)\b'
  return re.sub(short, lambda x: x[0].upper(), text)


def speed_in_words(name: str, noun: str) -> str:
  """Returns a name in words, with the noun of what is trained on."""
  return in_words(name).replace('images', noun)


def _folder(name):
  # Returns the name of an evaluation's folder in words.
  return in_words(re.sub('[-=]', ' ', re.sub('[/,]', ', ', name)))


def parts(results: Sequence[tuple[str, dict]], noun: str = 'images') -> Iterator[Table | Chart]:
  """Yields tables of all results, then their charts; noun: of what was drawn."""
  for unit, what in UNITS.items():
    rows = [
      [
        _folder(name),
        with_error(x[f'{unit}_per_dim'], x.get('standard_error')),
        f'{x.get("images", 0):,}',
        str(x.get('random_steps') or ''),
      ]
      for name, x in results
      if f'{unit}_per_dim' in x
    ]
    if rows:
      head = ['evaluation', f'{unit} per dimension', what, 'random steps']
      yield Table(f'Real {what}', [head, *rows])
  scored = [(name, x) for name, x in results if 'metrics' in x]
  metrics = dict.fromkeys(metric for _, x in scored for metric in x['metrics'])
  if metrics:
    head = ['evaluation', *map(in_words, metrics), 'about']
    rows = [
      [
        _folder(row.name),
        *(_score(row.scores.get(m, {})) for m in metrics),
        about(row.sampling, row.of, *(score.get('note') or '' for score in row.scores.values())),
      ]
      for row in _rows(scored)
    ]
    yield Table(f'Generated {noun}', [head, *rows])
  for name, x in results:
    if losses := x.get('losses'):
      heads = [part for part in losses['loss'] if not part.startswith('class ')]
      rows = [
        [in_words(line), *(_score(of.get(part, {})) for part in heads)]
        for line, of in losses.items()
      ]
      yield Table(f'The loss and those of exact denoisers, {_folder(name)}', [['', *heads], *rows])
    yield from _charts(_folder(name), x)


class _Row(NamedTuple):
  """The scores of a set of samples; `of` names the reference if it is not the usual one."""

  name: str
  sampling: Json
  of: str
  scores: dict[str, dict]


def _rows(scored: Sequence[tuple[str, dict]]) -> list[_Row]:
  """Returns a row for each set of samples, named by what differs from the run.

  Metrics of the same samples have files of their own. Scores are in one row if they are of the
  same draws and by the same examples.
  """
  rows: list[tuple[list[Json], _Row]] = []
  for name, x in scored:
    drawn, others = x.get('protocol', {}).get('samples', {}), x.get('other_data', '')
    read = x.get('settings', {}).get('evaluation', {})
    splits = f'against {read.get("reference", "train")}', f'of {x.get("split", "test")} pairs'
    of = [*{*splits} - {'against train', 'of test pairs'}, *(['other data'] if others else [])]
    if drawn and (metric := x.get('metric')):
      split = r'(-(train|test|validation)(?=-|$))?'
      name = re.sub(rf'^{re.escape(str(metric))}{split}', 'samples', name)
    new = _Row(name, drawn.get('sampling', {}), ', '.join(of), {})
    for draws, row in rows:
      same = drawn and (draws, row[:3]) == ([drawn, others], new[:3])
      if same and row.scores.keys().isdisjoint(x['metrics']):
        new = row
        break
    else:
      rows.append(([drawn, others], new))
    new.scores.update(x['metrics'])
  return [row for _, row in rows]


def _score(content):
  return with_error(content.get('value'), content.get('error'))


def steps_of(c: Json) -> str:
  """Returns the grid of a section `sampling` in words."""
  grid = c.get('grid') or {}
  return f'respaced {grid["steps"]}' if 'steps' in grid else f'{grid.get("number")} steps'


def about(c: Json, *notes: str) -> str:
  """Returns how images were sampled, by a section `sampling`, and notes."""
  words = {
    (c.get('sampler') or {}).get('name'): True,
    steps_of(c): 'grid' in c,
    f'guidance {(c.get("guidance") or {}).get("scale")}': c.get('guidance'),
    f'{c.get("num_samples", 0):,} of checkpoint {c.get("checkpoint")}': c,
    f'seed {c.get("seed")}': c,
    **dict.fromkeys(notes, True),
  }
  return ', '.join(text for text, shown in words.items() if text and shown)


def _charts(name, x):
  # Yields charts of bits by step, rate and distortion, or accuracy by t.
  for x_name, y_name, label, title, *labels in (
    ('', 'terms', 'bits', 'Bits by step', 'step t', 'bits/dim', 'xy'),
    ('rate', 'distortion', 'RMSE', 'Rate and distortion', 'rate, bits/dim', 'RMSE of 0..255'),
    ('t', 'accuracy', 'accuracy', 'Accuracy by t', 't'),
  ):
    y = x.get(y_name)
    places = x.get(x_name) if x_name else y and range(1, len(y) + 1)
    if places and y:
      yield charts.draw(f'{title}, {name}', [Line(label, places, y)], *labels)


def final(run: Record) -> dict[str, str]:
  """Returns the scores of a run, and a value of each curve, in words.

  It is the last one up to the step that is sampled.
  """
  hidden = 'learning_rate', 'grad_norm', 'skipped_steps'
  values = {}
  for name, x in run.results:
    for unit in UNITS:
      if f'{unit}_per_dim' in x:
        value = with_error(x[f'{unit}_per_dim'], x.get('standard_error'))
        values[f'{unit}/dim, {_folder(name)}'] = value
  for row in _rows([(name, x) for name, x in run.results if 'metrics' in x]):
    added = '' if row.name == 'samples' else f', {_folder(row.name)}'
    added += f', {row.of}' if row.of else ''
    values |= {in_words(metric) + added: _score(score) for metric, score in row.scores.items()}
  for name, curve in run.curves.items():
    if name in (*hidden, *_SPEEDS) or '_quarter_' in name:
      continue
    if (value := curve.at(run.sampled)) is not None:
      values.setdefault(in_words(name), f'{value:.5g}')
  for name in _SPEEDS:
    if name in run.curves:
      values[speed_in_words(name, run.noun)] = f'{statistics.median(run.curves[name].values):,.4g}'
  return values

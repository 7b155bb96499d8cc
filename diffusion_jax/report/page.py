"""Writes the page: what a run has, in sections; without what it has not."""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.report import charts, pictures, results
from diffusion_jax.report.charts import Line
from diffusion_jax.report.record import Curve, Run
from diffusion_jax.report.results import Table


class Section(NamedTuple):
  """Holds a section of the page; parts: text, tables, charts and films."""

  name: str
  title: str
  parts: list[Any]


class Note(NamedTuple):
  """Holds a line of text."""

  text: str


class Extras(NamedTuple):
  """Holds what is computed for the report: all of it may be missing.

  base: config.json of a run that sets no more than the choices of this one.
  """

  base: dict[str, Any]
  trajectory: pictures.Film | None = None
  neighbours: pictures.Film | None = None
  seconds: float | None = None  # of the training


def write(path: Path, run: Run, others: Sequence[Run], extras: Extras) -> None:
  """Writes one self-contained file, whole or not at all."""
  draft = path.with_name(f'{path.name}.tmp')
  draft.write_text(render(run, others, extras), encoding='utf-8')
  draft.replace(path)


def render(run: Run, others: Sequence[Run], extras: Extras) -> str:
  """Returns the HTML of a run, beside which others are shown."""
  runs = [run, *others]
  found = [
    Section('samples', 'Samples during training', films_of([run])),
    Section('trajectory', 'From noise to images', [extras.trajectory]),
    Section('curves', 'Curves', curve_charts([run])),
    Section('evaluation', 'Evaluation', results.parts(run.results)),
    Section('neighbours', 'Nearest training images', [extras.neighbours]),
    Section('runs', 'Runs side by side', compare(runs) if others else []),
    Section('config', 'Configuration', config_parts(run, extras.base)),
    Section('environment', 'Environment', session_tables(run.sessions)),
  ]
  for i, section in enumerate(found):
    parts = [part for part in section.parts if part is not None]
    found[i] = section._replace(parts=parts)
  return _template().render(
    name=run.name,
    about=summary(run),
    tiles=tiles(run, extras),
    sections=[section for section in found if section.parts],
    drawn=datetime.now().astimezone().isoformat(' ', 'minutes'),
    bokeh=charts.script(),
    script=_script(),
    kind=lambda part: type(part).__name__,
    rows=charts.table,
    sha=_sha,
  )


@functools.cache
def _template():
  import jinja2

  loader = jinja2.PackageLoader('diffusion_jax.report')
  environment = jinja2.Environment(
    loader=loader,
    autoescape=True,  # names and values are those of files: no markup
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['data'] = _data
  environment.filters['breakable'] = _breakable
  return environment.get_template('report.html')


def _script():
  from importlib.resources import files

  return (files('diffusion_jax.report') / 'templates' / 'page.js').read_text(
    'utf-8'
  )


def _data(value):
  # JSON in a script element, which no string in it can close.
  import markupsafe

  text = value if isinstance(value, str) else json.dumps(value)
  return markupsafe.Markup(text.replace('<', '\\u003c'))


def _breakable(name):
  # A line may end after a dot or an underscore of a long name.
  import markupsafe

  parts = re.split(r'(?<=[._])', name)
  return markupsafe.Markup('<wbr>').join(parts)


def _sha(script):
  # The hash by which the page's policy lets this script run, and no other.
  digest = hashlib.sha256(script.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def summary(run: Run) -> str:
  """Returns what was trained, in a line."""
  c = run.config.get
  shape = 'x'.join(map(str, c('data.image_shape') or ()))
  objective = c('objective.name')
  found = [
    f'{c("data.name")} {shape}'.strip() if c('data.name') else '',
    f'network {c("network.name")}' if c('network.name') else '',
    f'objective {objective}' if objective else '',
    f'schedule {c("schedule.name")}' if c('schedule.name') else '',
    f'sampler {c("sampling.sampler")}' if c('sampling.sampler') else '',
  ]
  return ' · '.join(filter(None, found))


def tiles(run: Run, extras: Extras) -> list[tuple[str, str]]:
  """Returns (name, value) of the figures that stand at the top."""
  found = []
  for entry in reversed(run.sessions):
    if 'parameters' in entry:
      found.append(('parameters', f'{entry["parameters"]:,}'))
      break
  loss = run.curves.get('loss')
  if loss:
    found.append(('steps', f'{loss.steps[-1]:,}'))
  if extras.seconds is not None:
    found.append(('training', duration(extras.seconds)))
  for name in ('loss', 'test_loss'):
    if name in run.curves:
      found.append((shown(name), f'{run.curves[name].values[-1]:.4g}'))
  speed = run.curves.get('images_per_second')
  if speed:
    found.append(('images per second', f'{np.median(speed.values):,.4g}'))
  return found + results.tiles(run.results)


def duration(seconds: float) -> str:
  """Returns '1 h 3 min', '3 min 5 s' or '5 s'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def shown(name: str) -> str:
  """Returns the name of a metric in words."""
  return name.replace('_', ' ').replace('grad norm', 'gradient norm')


def films_of(runs: Sequence[Run]) -> list[Any]:
  """Returns a film of the sheets of each run that has some."""
  return [
    pictures.film(
      run.name if len(runs) > 1 else sheet_title(run),
      f'Sheet of generated images of {run.name}',
      [(f'step {step:,}', path) for step, path in run.sheets],
      1_500_000 // len(runs),
    )
    for run in runs
  ]


def sheet_title(run: Run) -> str:
  """Returns what the sheets of a run have in common."""
  c = run.config.get
  classes = c('conditioning.labels') and not c('sampling.labels')
  columns = '; a column for each class' if classes else ''
  return f'The same noise at every step{columns}'


def curve_charts(runs: Sequence[Run]) -> list[Any]:
  """Returns a chart for each metric; those of quarters of t in one.

  A loss stands beside its value on the test split. Of several runs each has a
  colour, and quarters are left out.
  """
  names = list(dict.fromkeys(name for run in runs for name in run.curves))
  first = 'loss', 'learning_rate', 'grad_norm', 'images_per_second'
  names.sort(key=lambda n: first.index(n) if n in first else len(first))
  found = []
  quarters = [name for name in names if '_quarter_' in name]
  for name in names:
    if name in quarters or name.startswith('test_') and name[5:] in names:
      continue
    lines = [
      line for i, run in enumerate(runs) for line in _lines(name, run, i, runs)
    ]
    dashed = any(line.dash == 'dashed' for line in lines)
    title = shown(name).capitalize() + (' (dashed: test)' if dashed else '')
    found.append(charts.draw(title, lines, log=log_axis(name, lines)))
    if name == 'loss' and quarters and len(runs) == 1:
      found += quarter_charts(runs[0].curves)
  return found


def _lines(name, run, i, runs):
  colours = charts.COLOURS
  colour = colours[i % len(colours)]
  several = len(runs) > 1
  for each, dash in ((name, 'solid'), (f'test_{name}', 'dashed')):
    if each in run.curves:
      curve = run.curves[each]
      test = colour if several else colours[1]
      label = f'{run.name}, test' if each != name else run.name
      yield Line(
        label if several else shown(each),
        curve.steps,
        curve.values,
        colour if each == name else test,
        dash if several else 'solid',
        run.name if several else '',
      )


def quarter_charts(curves: dict[str, Curve]) -> list[Any]:
  """Returns the losses of the quarters of t, in training and on test images."""
  ranges = '0 to ¼', '¼ to ½', '½ to ¾', '¾ to 1'
  found = []
  for prefix, title in (
    ('', 'Loss by quarter of t'),
    ('test_', 'Test loss by quarter of t'),
  ):
    lines = [
      Line(f't {where}', curves[name].steps, curves[name].values, colour)
      for i, (where, colour) in enumerate(
        zip(ranges, charts.QUARTERS, strict=True), start=1
      )
      if (name := f'{prefix}loss_quarter_{i}') in curves
    ]
    if lines:
      log = log_axis(f'{prefix}loss', lines)
      found.append(charts.draw(title, lines, log=log))
  return found


def log_axis(name: str, lines: Sequence[Line]) -> str:
  """Returns 'y' for a loss that falls by a decade or more, else ''."""
  return 'y' if 'loss' in name and charts.spans_a_decade(lines) else ''


_OBJECTIVE = (
  'objective.name', 'objective.parametrization', 'objective.weight',
  'objective.times', 'objective.uncertainty',
)  # fmt: skip


def compare(runs: Sequence[Run]) -> list[Any]:
  """Returns tables, curves and sheets of several runs."""
  head = ['run', 'steps', *results.final_names(runs)]
  last = [
    [
      run.name,
      f'{run.curves["loss"].steps[-1]:,}' if 'loss' in run.curves else '',
      *(results.final(run, name) for name in head[2:]),
    ]
    for run in runs
  ]
  objectives = {
    tuple(plain(run.config.get(field)) for field in _OBJECTIVE) for run in runs
  }
  note = 'Losses of different objectives cannot be compared with each other.'
  return [
    Table('Where they ended', [[shown(x) for x in head], *last]),
    Note(note) if len(objectives) > 1 else None,
    config_table(runs),
    *curve_charts(runs),
    *films_of(runs),
  ]


# Sections that say nothing of a training.
_APART = 'edit.', 'convert.', 'report.', 'noise.', 'compilation_cache'


def fields(run: Run) -> dict[str, str]:
  """Returns the fields of a run's training, as they are written."""
  return {
    name: plain(value)
    for name, value in run.config.items()
    if not name.startswith(_APART)
  }


def config_table(runs: Sequence[Run]) -> Table | None:
  """Returns the fields in which the configs of runs differ."""
  configs = [fields(run) for run in runs]
  names = list(dict.fromkeys(name for config in configs for name in config))
  rows = [[name, *(c.get(name, 'absent') for c in configs)] for name in names]
  rows = [row for row in rows if len(set(row[1:])) > 1]
  head = ['field', *(run.name for run in runs)]
  caption = 'Where their configs differ'
  return Table(caption, [head, *rows], code=True) if rows else None


def config_parts(run: Run, base: dict[str, Any]) -> list[Any]:
  """Returns what the run sets, beside configs/base.py, and all fields."""
  known = {name: plain(value) for name, value in base.items()}
  now = fields(run)
  rows = [
    [name, value, known.get(name, 'absent')]
    for name, value in now.items()
    if value != known.get(name)
  ]
  found = []
  if rows and base:
    head = ['field', 'this run', 'configs/base.py']
    caption = (
      'What differs from configs/base.py, and from defaults of its choices'
    )
    found.append(Table(caption, [head, *rows], code=True))
  if now:
    rows = [['field', 'value'], *([*item] for item in now.items())]
    title = f'All {len(now)} fields'
    found.append(Table(title, rows, code=True, folded=True))
  return found


def plain(value: Any) -> str:
  """Returns a value of a config as it is written in Python."""
  return repr(tuple(value) if isinstance(value, list) else value)


def session_tables(sessions: Sequence[dict]) -> list[Any]:
  """Returns where the training ran: the last start, and a list of all."""
  starts = [entry for entry in sessions if entry.get('event') == 'start']
  if not starts:
    return []
  last = starts[-1]
  rows = [
    ['started', str(last.get('time', '')).replace('T', ' ')],
    ['devices', results.counted(last.get('devices') or [])],
    ['processes', str(last.get('processes', ''))],
    ['platform', str(last.get('platform', ''))],
    ['Python', str(last.get('python', ''))],
    *(
      [f'commit of the {where}', str(commit)]
      for where, commit in (last.get('commits') or {}).items()
    ),
    *([str(n), str(x)] for n, x in (last.get('versions') or {}).items()),
  ]
  rows = [['of the last start', ''], *(row for row in rows if row[1])]
  found = [Table('Where it was trained', rows)]
  if len(starts) > 1:
    rows = [
      [str(entry.get(name, '')) for name in ('event', 'step', 'time')]
      for entry in sessions
    ]
    head = ['event', 'step', 'time']
    found.append(Table('Starts and ends', [head, *rows], folded=True))
  return found

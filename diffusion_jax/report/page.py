"""Makes the page of a run, with a section for each kind of content."""

import base64
import collections
import contextlib
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.report import charts, pictures, results
from diffusion_jax.report.charts import Area, Chart, Line
from diffusion_jax.report.pictures import Film
from diffusion_jax.report.record import HELD_OUT, Record, leaving_out
from diffusion_jax.report.results import Table, in_words
from diffusion_jax.runtime import sessions
from diffusion_jax.runtime.files import one_line, with_error

# The exact denoisers whose losses are drawn, in words, and their lines
# (docs/training.md). On held-out examples the memorised ones' is far above all others.
FLOORS = {
  'linear': ('a linear denoiser', 'dotted'),
  'memorised': ('memorised examples', 'dotdash'),
}
# (field, value) -> (field, value) as a flag has them.
Flag = Callable[[str, object], tuple[str, str]]
# (field, the fields of a run) -> whether losses of runs that differ in it cannot be compared.
DecidesLoss = Callable[[str, Mapping[str, object]], bool]


def render(
  runs: Sequence[Record],
  defaults: Mapping[str, object] | None = None,
  trajectory: Film | None = None,
  neighbours: Film | None = None,
  gallery: Sequence[Film | Table | None] = (),
  apart: Collection[str] = (),
  decides_loss: DecidesLoss = lambda field, fields: False,
  flag: Flag = lambda name, value: (name, repr(value)),
) -> str:
  """Returns the HTML of a run, runs[0], and of the runs to compare it with.

  defaults: its fields' default values; gallery: of --mode=sample. apart:
  fields and sections of the config that do not describe a training; decides_loss:
  whether losses of runs that differ in a field cannot be compared, also given the fields of
  one; flag: how a flag has a field. Sections of the page without content are left out.
  """
  runs = list(map(readable, runs))
  run = runs[0]
  sections = (
    ('samples', 'Samples during training', films_of(runs)),
    ('gallery', 'Samples', gallery),
    ('trajectory', f'From noise to {run.noun}', [trajectory]),
    ('curves', 'Curves', curve_charts(runs)),
    ('evaluation', 'Evaluation', evaluation(run)),
    ('neighbours', f'Nearest training {run.noun}', [neighbours]),
    ('runs', 'Runs', comparison(runs, decides_loss)),
    ('traces', 'Traces', trace_tables(run.traces)),
    ('config', 'Configuration', config_tables(runs, defaults, apart, flag)),
    ('environment', 'Environment', session_tables(run.sessions)),
  )
  listed = [(name, title, list(filter(None, x))) for name, title, x in sections]
  template, script = _template()
  return template.render(
    name=run.name,
    about=[*filter(None, (summary(run), trained(run)))],
    notes=[note_of(run, runs[1:]) for run in runs if run.chosen],
    tiles=tiles(run),
    sections=[section for section in listed if section[2]],
    drawn=datetime.now().astimezone().isoformat(' ', 'minutes'),
    script=script,
  )


def readable(run: Record) -> Record:
  """Returns a run without the results and sessions that cannot be shown."""

  def shows(what, found, entries):
    part = run._replace(results=found, sessions=entries)
    with leaving_out(f'{what} of {run.name}'):
      return [tiles(part), trained(part), [*evaluation(part)], [*session_tables(entries)]]

  found = [x for x in run.results if shows(f'evaluation {x[0]}', [x], [])]
  entries = [x for x in run.sessions if shows('a line of sessions.jsonl', [], [x])]
  whole = shows('sessions.jsonl', [], entries)
  return run._replace(results=found, sessions=entries if whole else [])


def environment() -> Any:
  """Returns Jinja's environment of the templates, whose values are of one line."""
  import jinja2

  jinja = jinja2.Environment(
    loader=jinja2.PackageLoader('diffusion_jax.report'),
    autoescape=jinja2.select_autoescape(['html', 'css']),  # Names and values come from files.
    undefined=jinja2.StrictUndefined,
    finalize=lambda x: one_line(x) if type(x) is str else x,  # not Markup
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  jinja.filters |= {'sha': _sha, 'one_line': one_line}
  return jinja


@functools.cache
def _template():
  # Returns the template, and the page's own script.
  templates = environment()
  script, *_ = templates.loader.get_source(templates, 'page.js')
  return templates.get_template('report.html'), script


def _sha(script):
  # Returns the hash of a script that the page's policy allows.
  digest = hashlib.sha256(script.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def summary(run: Record) -> str:
  """Returns a line about what was trained."""
  shape = run.fields.get('facts.x.shape') or ()
  what = 'x'.join(map(str, shape))
  if len(shape) == 1 and run.noun == 'examples':
    what = f'{what} number' + 's' * (shape[0] != 1)
  words = [f'{run.fields.get("data.name") or ""} {what}'.strip()]
  for path in ('network', 'objective', 'schedule', 'sampling.sampler'):
    name = run.fields.get(f'{path}.name')
    words += [f'{path.removeprefix("sampling.")} {name}'] if name else []
  return ' · '.join(filter(None, words))


def trained(run: Record) -> str:
  """Returns a line about when and where a run was trained."""
  starts = [entry for entry in run.sessions if entry.get('event') == 'start']
  if not starts:
    return ''
  last, took = run.sessions[-1], sessions.seconds(run.sessions)
  devices, at = starts[-1].get('devices'), ''
  with contextlib.suppress(Exception):  # The file may be a stranger's.
    at = f'{datetime.fromisoformat(last["time"]).astimezone(UTC):%Y-%m-%d %H:%M} UTC'
  words = (
    f'Trained {run.last:,} steps' if run.last else 'Trained',
    f'in {timedelta(seconds=round(took))}' if took else '',
    f'on {_counted(devices)}' if devices else '',
  )
  ended = 'ended' if last.get('event') == 'end' else 'last started'
  return ' '.join(filter(None, words)) + f'; {ended} {at}' * bool(at)


def note_of(run: Record, others: Collection[Record]) -> str:
  """Returns the sentence about the step that is sampled; it names the run among others."""
  return f'{run.name}: {run.chosen}.' if others else f'{run.chosen[0].upper()}{run.chosen[1:]}.'


def _counted(devices):
  counts = collections.Counter(map(str, devices)).items()
  return ', '.join(f'{n} × {x}' for x, n in counts)


class Tile(NamedTuple):
  """A number at the top of the page, with its name, and a note below it."""

  name: str
  value: str
  note: str = ''


def tiles(run: Record) -> list[Tile]:
  """Returns the numbers at the top of the page."""
  counts = [x['parameters'] for x in run.sessions if 'parameters' in x]
  seconds = sessions.seconds(run.sessions)
  steps = results.Value(
    f'{run.last:,}' if 'loss' in run.curves else '',
    f'{run.sampled:,} is sampled' if run.chosen else '',
  )
  top = {
    'parameters': results.Value(f'{counts[-1]:,}' if counts else ''),
    'steps': steps,
    'training': results.Value(str(timedelta(seconds=round(seconds))) if seconds else ''),
  }
  speed = results.speed_in_words('images_per_second', run.noun)
  empty = results.Value('')
  top |= dict.fromkeys((speed, 'loss', 'test loss', 'validation loss'), empty)
  # Scores of the user's own names and of sweeps, which have commas, are last.
  top |= sorted(results.final(run).items(), key=lambda x: x[0].count(', '))
  return [Tile(name, *value) for name, value in top.items() if value.text][:12]


def films_of(runs: Sequence[Record]) -> Iterator[Film | None]:
  """Yields a film of each run's sheets of samples, and the one of the step that is sampled."""
  for run in runs:
    title = run.name if len(runs) > 1 else 'The same noise at every step'
    get = run.fields.get
    if get('conditioning.labels') and not get('sampling.labels'):
      title += '; the classes in turn'
    about = f'Sheet of generated {run.noun} of {run.name}'
    sheets = [(f'step {step:,}', path) for step, path in run.sheets]
    if run.chosen:
      at = [(label, path) for label, path in sheets if label == f'step {run.sampled:,}']
      yield pictures.film('Of the step that is sampled', about, at)
    yield pictures.film(title, about, sheets, 1_500_000 // len(runs))


def evaluation(run: Record) -> Iterator[Table | Chart | Film | None]:
  """Yields the tables and charts of results, then their figures."""
  yield from results.parts(run)
  titles = {
    'parts': 'What adds up to the last bar',
    'ranks': 'Ranks of the truth among its draws: flat if calibrated',
    'coverage': 'Expected coverage: below the diagonal is over-confident',
  }
  for path in run.figures:
    title = f'{titles[path.stem]} ({path.parent.name})'
    yield pictures.film(title, title, [('', path)])


def curve_charts(runs: Sequence[Record]) -> Iterator[Chart]:
  """Yields a chart for each metric, with its values on held-out examples.

  Each of several runs has a colour. A single run also gets charts of the loss
  by quarters of t.
  """
  names = list(dict.fromkeys(name for run in runs for name in run.curves))
  first = 'loss', 'learning_rate', 'grad_norm', 'images_per_second', 'tflops', 'mfu'
  names.sort(key=lambda n: first.index(n) if n in first else len(first))
  single = len(runs) == 1
  for name in names:
    held_out = name.startswith(HELD_OUT)
    if '_quarter_' in name or held_out and name.partition('_')[2] in names:
      continue
    lines, exact, areas = [], [], []
    for i, run in enumerate(runs):
      for test, which in enumerate((name, f'test_{name}', f'validation_{name}')):
        if which not in run.curves:
          continue
        label = in_words(which) if single else f'{run.name}, {in_words(which)}'
        colour = charts.COLOURS[(i + (single and test)) % len(charts.COLOURS)]
        lines.append(Line(label, *run.curves[which], colour, 'dashed' if test else 'solid'))
        exact += floors_of(run, which, lines[-1]) if single else []
        areas += area_of(run, which, lines[-1]) if single else []
    title = results.speed_in_words(name, runs[0].noun)
    if name == 'tflops':
      title, lines = _in_flops(title, lines)
    yield _curves(title, lines + exact, areas)
    if name == 'loss' and single:
      yield from _quarter_charts(runs[0])


def floors_of(run: Record, name: str, line: Line) -> list[Line]:
  """Returns level lines of exact denoisers, on the examples of a curve and in its colour."""
  ends, losses = line.x[:: max(1, len(line.x) - 1)], run.floors.get(name, {})
  if name.startswith(HELD_OUT):
    losses = {exact: x for exact, x in losses.items() if exact != 'memorised'}
  return [
    Line(
      f'{line.label}: {words} {value}',
      ends,
      [losses[exact].value] * len(ends),
      line.colour,
      dash,
      words,
    )
    for exact, (words, dash) in FLOORS.items()
    if exact in losses and (value := with_error(*losses[exact]))
  ]


def area_of(run: Record, name: str, line: Line) -> list[Area]:
  """Returns the area where a curve is expected, in its colour, for the steps that it has."""
  expected = {step: x for step, x in run.expected.get(name, {}).items() if step <= line.x[-1]}
  if not expected:
    return []
  return [Area(f'{line.label}: expected', [*expected], [*expected.values()], line.colour)]


def _quarter_charts(run):
  ranges = '0 to ¼', '¼ to ½', '½ to ¾', '¾ to 1'
  titles = {'': 'Loss', 'test_': 'Test loss', 'validation_': 'Validation loss'}
  for prefix, title in titles.items():
    names = [f'{prefix}loss_quarter_{i}' for i in range(1, 5)]
    lines = {
      name: Line(f't {ranges[i]}', curve.steps, curve.values, charts.QUARTERS[i])
      for i, name in enumerate(names)
      if (curve := run.curves.get(name))
    }
    if lines:
      exact = [x for name, line in lines.items() for x in floors_of(run, name, line)]
      areas = [x for name, line in lines.items() for x in area_of(run, name, line)]
      yield _curves(f'{title} by quarter of t', [*lines.values(), *exact], areas)


def _in_flops(title, lines):
  # Rates of less than 10^12 FLOP/s are in 10^9.
  if max(max(line.y) for line in lines) >= 1:
    return f'{title}, TFLOP/s', lines
  lines = [line._replace(y=[1000 * y for y in line.y]) for line in lines]
  return f'{title}, GFLOP/s', lines


def _curves(title, lines, areas=()):
  # A loss that falls by a decade or more gets a logarithmic axis.
  log = 'loss' in title.lower() and charts.spans_a_decade(lines)
  title += '; shaded: expected' if areas else ''
  return charts.draw(title, lines, log='y' if log else '', areas=areas)


def comparison(
  runs: Sequence[Record], decides_loss: DecidesLoss = lambda field, fields: False
) -> Iterator[Table | str]:
  """Yields a table of the values of several runs at the steps that are sampled.

  A line follows if their losses cannot be compared. decides_loss: see `render`.
  """
  if len(runs) < 2:
    return
  finals = [results.final(run) for run in runs]
  names = dict.fromkeys(name for final in finals for name in final)
  rows = [
    [run.name, _steps(run), *(final[name].text if name in final else '' for name in names)]
    for run, final in zip(runs, finals, strict=True)
  ]
  yield Table('Where they ended', [['run', 'steps', *names], *rows])
  every = dict.fromkeys(n for run in runs for n in run.fields if decides_loss(n, run.fields))
  first = runs[0].fields
  if differ := [n for n in every if any(run.fields.get(n) != first.get(n) for run in runs)]:
    more = f' and {len(differ) - 3} more fields' if len(differ) > 3 else ''
    yield f'Losses cannot be compared: the runs differ in {", ".join(differ[:3])}{more}.'


def _steps(run):
  # Returns the last step, and the one that is sampled if it is another.
  steps = f'{run.last:,}' if 'loss' in run.curves else ''
  return steps + (f'; {run.sampled:,} is sampled' if steps and run.chosen else '')


def config_tables(
  runs: Sequence[Record],
  defaults: Mapping[str, object] | None,
  apart: Collection[str] = (),
  flag: Flag = lambda name, value: (name, repr(value)),
) -> Iterator[Table]:
  """Yields a table of fields that differ, and all fields of the first run."""
  columns: dict[str, Mapping] = {run.name: run.fields for run in runs}
  if defaults:
    columns['default'] = defaults
  yield from differing(columns, apart, flag)
  rows = [list(item) for item in as_flags(runs[0].fields, apart, flag).items()]
  if rows:
    title = f'All {len(rows)} fields of {runs[0].name}'
    yield Table(title, [['field', 'value'], *rows], code=True, folded=True)


def differing(
  columns: Mapping[str, Mapping[str, object]],
  apart: Collection[str] = (),
  flag: Flag = lambda name, value: (name, repr(value)),
) -> Iterator[Table]:
  """Yields a table of the fields that differ between columns, if there are."""
  written = [as_flags(fields, apart, flag) for fields in columns.values()]
  names = dict.fromkeys(name for fields in written for name in fields)
  rows = [[name, *(x.get(name, '') for x in written)] for name in names]
  rows = [row for row in rows if len(set(row[1:])) > 1]
  if rows:
    yield Table('Fields that differ', [['field', *columns], *rows], code=True)


def as_flags(fields: Mapping[str, object], apart: Collection[str], flag: Flag) -> dict[str, str]:
  """Returns the fields that are not apart, as flags have them."""
  left_out = tuple(f'{name}.' for name in apart)
  kept = (x for x in fields.items() if not f'{x[0]}.'.startswith(left_out))
  return dict(flag(*x) for x in kept)


def trace_tables(paths: Sequence[Path]) -> Iterator[Table | str]:
  """Yields a table of traces, and how to open them."""
  counts = collections.Counter(path.parent.name for path in paths).items()
  if paths:
    yield Table('For xprof', [['trace', 'hosts'], *([name, str(n)] for name, n in counts)])
    yield 'To open them: pip install xprof; xprof server --logdir=traces in the run folder.'


def session_tables(entries: Sequence[dict]) -> Iterator[Table]:
  """Yields a table of the last start, and one of all starts and ends."""
  starts = [entry for entry in entries if entry.get('event') == 'start']
  if not starts:
    return
  rows = [['of the last start', '']]
  for name, value in starts[-1].items():
    if isinstance(value, dict):  # commits, versions
      rows += [[f'{name}: {key}', str(x)] for key, x in value.items()]
    elif isinstance(value, list):  # devices
      rows.append([name, _counted(value)])
    elif name not in ('event', 'step', 'parameters'):
      rows.append([name, str(value)])
  yield Table('Where it was trained', rows)
  if len(starts) > 1:
    head = ['event', 'step', 'time']
    rows = [[str(entry.get(name, '')) for name in head] for entry in entries]
    yield Table('Starts and ends', [head, *rows], folded=True)

"""Turns results of --mode=evaluate into tables and charts."""

import collections
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from diffusion_jax.report import charts
from diffusion_jax.report.charts import Line
from diffusion_jax.report.record import Run


class Table(NamedTuple):
  """Holds rows of text, a head first; columns of numbers are aligned as such.

  code: the cells are of a config. folded: it is shown on demand.
  """

  caption: str
  rows: list[list[str]]
  code: bool = False
  folded: bool = False

  def is_number(self, column: int) -> bool:
    """Returns whether the cells below a head are numbers, as far as any are."""
    cells = [row[column] for row in self.rows[1:] if row[column]]
    return not self.code and bool(cells) and all(map(_is_number, cells))


def _is_number(cell):
  first = cell.split(' ')[0].replace(',', '').rstrip('%')
  try:
    float(first)
  except ValueError:
    return False
  return ' ' not in cell or '±' in cell


def with_error(value: Any, error: Any = None) -> str:
  """Returns '1.234 ± 0.005': as many places as the error has, or 5 digits."""
  if not isinstance(value, (int, float)) or not math.isfinite(value):
    return ''
  if not error or not math.isfinite(error):
    return f'{value:.5g}'
  places = max(0, 1 - math.floor(math.log10(error)))
  return f'{value:.{places}f} ± {error:.{places}f}'


def counted(names: Iterable[Any]) -> str:
  """Returns '8 × TPU v4' of eight such names."""
  counts = collections.Counter(map(str, names))
  return ', '.join(
    f'{n} × {name}' if n > 1 else name for name, n in counts.items()
  )


def parts(found: Sequence[tuple[str, dict]]) -> list[Any]:
  """Returns tables of all results, then charts of those that have some."""
  bits = [(n, x) for n, x in found if 'bits_per_dim' in x]
  drawn = [(n, x) for n, x in found if isinstance(x.get('metrics'), dict)]
  swept = [(n, x) for n, x in found if isinstance(x.get('points'), list)]
  # the points of a sweep are in its table
  drawn = [(n, x) for n, x in drawn if n.rpartition('/')[0] not in dict(swept)]
  return [
    bits_table(bits),
    *(score_table(name, content) for name, content in drawn),
    *(sweep_table(name, content) for name, content in swept),
    *(chart for name, x in found for chart in result_charts(name, x)),
  ]


def bits_table(found) -> Table | None:
  """Returns the code lengths of real images, a line for each evaluation."""
  if not found:
    return None
  rows = [
    [
      name,
      str(x.get('split', '')),
      f'{x.get("images", ""):,}',
      with_error(x['bits_per_dim'], x.get('standard_error')),
    ]
    for name, x in found
  ]
  head = ['evaluation', 'split', 'images', 'bits per dimension']
  return Table('Real images', [head, *rows])


def score_table(name: str, content: dict) -> Table:
  """Returns the scores of generated images, with their protocol."""
  rows = [
    [metric, with_error(x.get('value'), x.get('error')), str(x.get('note', ''))]
    for metric, x in content['metrics'].items()
  ]
  head = ['metric', 'value', 'note']
  if not any(row[2] for row in rows):
    head, rows = head[:2], [row[:2] for row in rows]
  return Table(f'Generated images, {name}{_protocol(content)}', [head, *rows])


def _protocol(content):
  sampling = content.get('protocol', {}).get('samples', {}).get('sampling', {})
  if not sampling:
    return ''
  steps = sampling.get('respacing') or f'{sampling.get("num_steps")} steps'
  return (
    f': {sampling.get("num_samples", 0):,} of checkpoint '
    f'{sampling.get("checkpoint")}, {sampling.get("sampler")}, {steps}, '
    f'guidance {sampling.get("guidance_scale")}, seed {sampling.get("seed")}'
  )


def sweep_table(name: str, content: dict) -> Table:
  """Returns the scores of all points of a sweep."""
  points = content['points']
  fields = list(dict.fromkeys(f for p in points for f in p['point']))
  metrics = list(dict.fromkeys(m for p in points for m in p['metrics']))
  rows = [
    [
      *(str(p['point'].get(field, '')) for field in fields),
      *(_score(p['metrics'].get(metric)) for metric in metrics),
    ]
    for p in points
  ]
  return Table(f'Sweep of {name}', [[*fields, *metrics], *rows])


def _score(found):
  return with_error(found.get('value'), found.get('error')) if found else ''


def result_charts(name: str, content: dict) -> list[Any]:
  """Returns the bits by step, the rate and distortion, or the accuracy by t."""
  found = []
  terms = content.get('terms')
  if terms:
    steps = range(1, len(terms) + 1)
    line = Line('bits', steps, terms)
    title = f'Bits by step, {name}'
    found.append(charts.draw(title, [line], 'step t', 'bits/dim', log='xy'))
  if content.get('rate') and content.get('distortion'):
    line = Line('RMSE', content['rate'], content['distortion'])
    title = f'Rate and distortion, {name}'
    found.append(charts.draw(title, [line], 'rate, bits/dim', 'RMSE of 0..255'))
  if content.get('t') and content.get('accuracy'):
    line = Line('accuracy', content['t'], content['accuracy'])
    found.append(charts.draw(f'Accuracy by t, {name}', [line], 't'))
  return found


def tiles(found: Sequence[tuple[str, dict]]) -> list[tuple[str, str]]:
  """Returns (name, value) of the main results."""
  shown = []
  for _, x in found:
    if 'bits_per_dim' in x:
      title = f'bits/dim, {x.get("metric")}'
      shown.append((title, with_error(x['bits_per_dim'])))
    elif isinstance(x.get('metrics'), dict) and not shown:
      name, score = next(iter(x['metrics'].items()), ('', {}))
      shown.append((name, with_error(score.get('value'))))
  return [(name, value) for name, value in shown[:3] if value]


def final_names(runs: Sequence[Run]) -> list[str]:
  """Returns the curves and results by which runs are compared."""
  found = []
  for run in runs:
    hidden = 'learning_rate', 'grad_norm', 'skipped_steps'
    found += [
      name
      for name in run.curves
      if '_quarter_' not in name and name not in hidden
    ]
    for name, content in run.results:
      if 'bits_per_dim' in content:
        found.append(f'bits/dim, {name}')
      if isinstance(content.get('metrics'), dict):
        found += [f'{x}, {name}' for x in content['metrics']]
  return list(dict.fromkeys(found))


def final(run: Run, name: str) -> str:
  """Returns the last value of a run by a name of `final_names`; '': none."""
  if name == 'images_per_second' and name in run.curves:
    return f'{statistics.median(run.curves[name].values):,.4g}'
  if name in run.curves:
    return f'{run.curves[name].values[-1]:.5g}'
  metric, _, folder = name.partition(', ')
  content = dict(run.results).get(folder, {})
  if metric == 'bits/dim':
    error = content.get('standard_error')
    return with_error(content.get('bits_per_dim'), error)
  return _score(content.get('metrics', {}).get(metric))

"""Makes tables and charts of the results of --mode=evaluate."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diffusion_jax.report import charts
from diffusion_jax.report.charts import Chart, Line
from diffusion_jax.report.record import Run


class Table(NamedTuple):
  """Rows of text after a head.

  code: whether cells are code. folded: whether the table is hidden at first.
  """

  caption: str
  rows: list[list[str]]
  code: bool = False
  folded: bool = False


def with_error(value: object, error: float | None = None) -> str:
  """Returns '1.234 ± 0.005', rounded like the error, or 5 digits."""
  if not isinstance(value, (int, float)) or not math.isfinite(value):
    return ''
  if not error or not math.isfinite(error):
    return f'{value:.5g}'
  places = max(0, 1 - math.floor(math.log10(error)))
  return f'{value:.{places}f} ± {error:.{places}f}'


def parts(results: Sequence[tuple[str, dict]]) -> Iterator[Table | Chart]:
  """Yields tables of all results, then their charts."""
  bits = [
    [
      name,
      str(x.get('split', '')),
      f'{x.get("images", ""):,}',
      with_error(x['bits_per_dim'], x.get('standard_error')),
    ]
    for name, x in results
    if 'bits_per_dim' in x
  ]
  if bits:
    head = ['evaluation', 'split', 'images', 'bits per dimension']
    yield Table('Real images', [head, *bits])
  scored = [(name, x) for name, x in results if 'metrics' in x]
  metrics = dict.fromkeys(metric for _, x in scored for metric in x['metrics'])
  if metrics:
    head = ['evaluation', *metrics, 'about']
    rows = [
      [name, *(_score(x['metrics'].get(m, {})) for m in metrics), _about(x)]
      for name, x in scored
    ]
    yield Table('Generated images', [head, *rows])
  for name, x in results:
    yield from _charts(name, x)


def _score(content):
  return with_error(content.get('value'), content.get('error'))


def _about(content):
  # Returns how the images were sampled, and notes on the scores.
  samples = content.get('protocol', {}).get('samples', {})
  c = samples.get('sampling', {})
  about = {
    f'{c.get("num_samples", 0):,} of checkpoint {c.get("checkpoint")}': c,
    (c.get('sampler') or {}).get('name'): True,
    c.get('respacing') or f'{c.get("num_steps")} steps': c,
    f'guidance {(c.get("guidance") or {}).get("scale")}': c.get('guidance'),
    f'seed {c.get("seed")}': c,
    **{x.get('note'): True for x in content['metrics'].values()},
  }
  return ', '.join(text for text, shown in about.items() if text and shown)


def _charts(name, x):
  # Yields charts of bits by step, rate and distortion, or accuracy by t.
  if x.get('terms'):
    line = Line('bits', range(1, len(x['terms']) + 1), x['terms'])
    title = f'Bits by step, {name}'
    yield charts.draw(title, [line], 'step t', 'bits/dim', log='xy')
  if x.get('rate') and x.get('distortion'):
    line = Line('RMSE', x['rate'], x['distortion'])
    title = f'Rate and distortion, {name}'
    yield charts.draw(title, [line], 'rate, bits/dim', 'RMSE of 0..255')
  if x.get('t') and x.get('accuracy'):
    line = Line('accuracy', x['t'], x['accuracy'])
    yield charts.draw(f'Accuracy by t, {name}', [line], 't')


def final(run: Run) -> dict[str, str]:
  """Returns the last value of each curve of a run, and its scores."""
  hidden = 'learning_rate', 'grad_norm', 'skipped_steps'
  values = {
    name: f'{curve.values[-1]:.5g}'
    for name, curve in run.curves.items()
    if name not in hidden and '_quarter_' not in name
  }
  speed = run.curves.get('images_per_second')
  if speed:
    values['images_per_second'] = f'{statistics.median(speed.values):,.4g}'
  for folder, x in run.results:
    if 'bits_per_dim' in x:
      error = x.get('standard_error')
      values[f'bits/dim, {folder}'] = with_error(x['bits_per_dim'], error)
    for metric, score in x.get('metrics', {}).items():
      values[f'{metric}, {folder}'] = _score(score)
  return values

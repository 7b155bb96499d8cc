"""The scores of several settings, in a table and in a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.metrics import plots
from diffusion_jax.runtime.files import with_error, write_summed


def write(out: Path, titles: Sequence[str], rows: list[Json], settings: Json) -> None:
  """Writes sweep.json and sweep.png, and prints a table of all points, with errors.

  Two points also have a row of their difference, the second less the first, whose error is of
  independent errors.

  titles: of the points. rows: of each point {'point': {field: value}, 'metrics': its
  scores, as `metric.as_json` has them}; settings: what all depend on. If only the widths of
  averages differ, the plot is against the width.
  """
  write_summed(out / 'sweep.json', {'points': rows, 'settings': settings})
  shown = list(dict.fromkeys(name for row in rows for name in row['metrics']))
  missing = {'value': np.nan, 'error': None}
  values, errors = (
    {n: np.array([row['metrics'].get(n, missing)[key] for row in rows], float) for n in shown}
    for key in ('value', 'error')
  )
  lines = {
    name: [_cell(values[score][i], errors[score][i]) for score in shown]
    for i, name in enumerate(titles)
  }
  if len(titles) == 2:
    both = [(np.diff(values[score])[0], np.hypot(*errors[score])) for score in shown]
    lines['difference'] = [_cell(*x) for x in both]
  width = max(map(len, lines))
  print(f'{"":{width}} ' + ' '.join(f'{name:>22}' for name in shown))
  for name, cells in lines.items():
    print(f'{name:{width}} ' + ' '.join(f'{cell:>22}' for cell in cells))
  if all([*row['point']] == ['weights.sigma_rel'] for row in rows):
    widths = [row['point']['weights.sigma_rel'] for row in rows]
    plots.plot_widths(out / 'sweep.png', widths, values, errors)
  else:
    plots.plot_sweep(out / 'sweep.png', titles, values)
  print(f'{out}/sweep.json, sweep.png')


def _cell(value, error):
  text = with_error(value, None if np.isnan(error) else error)
  return (text or f'{value}').replace('\xa0±\xa0', ' +- ')

"""The scores of several settings, in a table and in a figure."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.metrics import plots
from diffusion_jax.runtime.files import write_summed

# The scores of each setting by its title, as `metric.as_json` gives them.
Results = dict[str, dict[str, Json]]


def title(changes: Mapping[str, object]) -> str:
  """Returns 'num_steps=2,weights.decay=0.5' for the values of fields."""
  return ','.join(f'{field}={value}' for field, value in changes.items())


def write(out: Path, points: list[Json], results: Results, settings: Json) -> None:
  """Writes sweep.json and sweep.png, and prints a table of all points.

  points: {field: value} of each setting, in the order of results; settings: what all depend on. If
  only the widths of averages differ, the plot is against the width.
  """
  rows = [
    {'point': changes, 'metrics': scores}
    for changes, scores in zip(points, results.values(), strict=True)
  ]
  write_summed(out / 'sweep.json', {'points': rows, 'settings': settings})
  shown = list(rows[0]['metrics'])
  width = max(map(len, results))
  print(f'{"":{width}} ' + ' '.join(f'{name:>17}' for name in shown))
  for name, scores in results.items():
    values = (scores[score]['value'] for score in shown)
    print(f'{name:{width}} ' + ' '.join(f'{x:17.5g}' for x in values))
  values, errors = (
    {n: np.array([row['metrics'][n][key] for row in rows]) for n in shown}
    for key in ('value', 'error')
  )
  if all(list(changes) == ['weights.sigma_rel'] for changes in points):
    widths = [changes['weights.sigma_rel'] for changes in points]
    plots.plot_widths(out / 'sweep.png', widths, values, errors)
  else:
    plots.plot_sweep(out / 'sweep.png', list(results), values)
  print(f'{out}/sweep.json, sweep.png')

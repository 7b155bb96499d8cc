"""Errors of predictions of a number over the splits of a table (docs/results.md).

  python -m benchmarks.regression yacht.npz --splits=20
  python -m benchmarks.regression yacht.npz --splits=2 --flags='training.num_steps=500'

The file has the arrays `target` [N], `features` [N, D] and `test_indices`
[splits, n]. Each split trains configs/regression.py:npz and evaluates it, by
the program's own functions. Runs are in <out>; a command that is given again
continues, and computes no split twice. The table has mean and standard
deviation over splits, and the median of the processor's seconds of a training.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from configs import regression
from diffusion_jax.app import cli
from diffusion_jax.app.config import experiments
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder

SCORES = 'rmse', 'nll', 'ode', 'picp', 'qice'


def config_of(path: str, row: int, flags: str) -> Node:
  """Returns the config of a split: the recipe and `flags`, a=1 b=2."""
  fields = [('data.path', path), ('data.split_row', str(row)), ('report.after_training', 'False')]
  for flag in flags.split():
    name, _, value = flag.partition('=')
    fields.append((name, value))
  config = store.completed(experiments.from_file(str(regression.__file__), 'npz'))
  return store.with_flags(config, fields)


def scores_of(config: Node, run: Path) -> dict[str, float]:
  """Trains and evaluates a run; returns its scores and the seconds it took."""
  path = run / 'scores.json'
  if path.exists():
    return json.loads(path.read_text())
  start = time.process_time()
  cli.start(MODES['train'], config, RunFolder.at(run))
  seconds = time.process_time() - start
  cli.start(MODES['evaluate'], store.of_run(RunFolder.at(run), config, []), RunFolder.at(run))
  results = [json.loads(x.read_text()) for x in run.glob('evaluation/*/result.json')]
  found = {name: x['value'] for result in results for name, x in result['metrics'].items()}
  scores = {name: found[name] for name in SCORES} | {'seconds': seconds}
  path.write_text(json.dumps(scores))
  return scores


def table(rows: Sequence[dict[str, float]]) -> str:
  """Returns a line for each score: mean and standard deviation over splits."""
  lines = [f'{len(rows)} splits; median of a training: {median_seconds(rows):.0f} s']
  for name in SCORES:
    values = [row[name] for row in rows]
    error = statistics.stdev(values) if len(values) > 1 else float('nan')
    lines.append(f'{name:5}{statistics.mean(values):9.3f} +- {error:.3f}')
  return '\n'.join(lines)


def median_seconds(rows: Sequence[dict[str, float]]) -> float:
  """Returns the median of the processor's seconds of the trainings."""
  return statistics.median(row['seconds'] for row in rows)


def main() -> None:
  """Prints the scores of each split, and the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('path')
  parser.add_argument('--splits', type=int, default=20)
  parser.add_argument('--flags', default='')
  parser.add_argument('--out', type=Path, default=Path('runs/regression_benchmark'))
  args = parser.parse_args()
  if args.splits < 1:
    parser.error(f'--splits={args.splits} must be 1 or more')
  rows = []
  for row in range(args.splits):
    name = f'{Path(args.path).stem}-{row}-{args.flags}'.replace(' ', '-').replace('/', '_')
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        rows.append(scores_of(config_of(args.path, row, args.flags), args.out / name))
    except UserError as error:
      parser.error(f'split {row}: {error}')
    print(row, *(f'{name} {rows[-1][name]:.3f}' for name in SCORES), flush=True)
  print(table(rows))


if __name__ == '__main__':
  main()

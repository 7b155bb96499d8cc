"""What each trick does to the main job; the rules are in benchmarks/speedrun/README.md.

  python -m benchmarks.speedrun digits --seeds=3                       # all tricks, each alone
  python -m benchmarks.speedrun digits --seeds=3 --only='flow;Muon'
  python -m benchmarks.speedrun digits --seeds=5 --records --samples=10000
  python -m benchmarks.speedrun digits --entry='training.num_steps=800 optimizer=muon'

Each run trains by launch.py on one core, draws samples, and measures them. Its
row is written into <out>/<track>.jsonl as it comes; a command that is given
again continues, and runs nothing twice. The table has the difference to the
first recipe at the same seeds, with 95 % of Student's t.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.speedrun.tracks import ONLY_TRAINING, TRACKS, Track, fields_of

ROOT = Path(__file__).parents[2]
BASE = 'nothing'


class Row(NamedTuple):
  """A run. seconds: of the processor, from the command on; accuracy: in per cent."""

  flags: str
  seed: int
  samples: int
  seconds: float
  accuracy: float
  fd: float


class Difference(NamedTuple):
  """The mean of differences, and the half width of its interval of 95 %."""

  mean: float
  half: float

  def __str__(self):
    if self.half == float('inf'):
      return f'{self.mean:+.3f} (one seed)'
    nothing = '' if abs(self.mean) > self.half else ' (nothing)'
    return f'{self.mean:+.3f} ± {self.half:.3f}{nothing}'


def launch(core: int, log: Path, *arguments: str) -> float:
  """Runs launch.py on one core, and returns the seconds of the processor.

  Raises RuntimeError with the last line that it printed, if it fails.
  """
  command = ['taskset', '-c', str(core), sys.executable, str(ROOT / 'launch.py'), *arguments]
  with log.open('w') as output:
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if status:
    raise RuntimeError(log.read_text().strip().rpartition('\n')[2])
  return usage.ru_utime + usage.ru_stime


def run(
  track: Track, flags: str, seed: int, samples: int, core: int, out: Path, judge: str = ''
) -> Row:
  """Trains with flags, and measures samples by the run's own sampler.

  judge: the file of MNIST's classifier (docs/results.md).
  """
  place, log = (out / 'run').resolve(), out / 'launch.log'
  shutil.rmtree(place, ignore_errors=True)
  fields = fields_of(flags) | {'seed': str(seed)}
  training = [f'--config.{name}={text}' for name, text in fields.items()]
  seconds = launch(core, log, f'--config={track.config}', f'--workdir={place}', *training)
  drawn = [f'evaluation.num_generated={samples}', f'sampling.seed={seed}', *track.metrics]
  if judge:
    drawn.append(f'evaluation.weights={judge}')
  launch(core, log, f'--config={place}', '--mode=evaluate', *(f'--config.{x}' for x in drawn))
  (result,) = place.glob('evaluation/fd-*/result.json')
  (score,) = json.loads(result.read_text())['metrics'].values()
  return Row(flags, seed, samples, round(seconds, 1), track.accuracy(place), score['value'])


def read(path: Path) -> list[Row]:
  """Returns the rows of a file; none if it is missing."""
  return [Row(**json.loads(x)) for x in path.read_text().splitlines()] if path.exists() else []


def flags_of(*flags: str) -> str:
  """Returns flags a=1 b=2 without those that later ones replace."""
  return ' '.join(f'{name}={text}' for name, text in fields_of(*flags).items())


def entries(track: Track, records: bool, entry: str) -> dict[str, str]:
  """Returns {name: flags} of what is to be run; the first one is what others are compared to."""
  only = ' '.join(f'{name}={text}' for name, text in ONLY_TRAINING.items())
  if records or entry:
    names = dict([*track.records.items()][: None if records else 1])
    if entry:
      names['entry'] = entry
    return {name: flags_of(only, x) for name, x in names.items()}
  tricks = {BASE: ''} | track.tricks
  return {name: flags_of(only, track.base, x) for name, x in tricks.items()}


def difference(values: Iterable[float], base: Iterable[float]) -> Difference:
  """Compares values of seeds with those of the same seeds without the trick."""
  from scipy import stats

  pairs = [x - y for x, y in zip(values, base, strict=True)]
  mean, n = statistics.mean(pairs), len(pairs)
  if n < 2:
    return Difference(mean, float('inf'))
  return Difference(mean, stats.t.ppf(0.975, n - 1) * statistics.stdev(pairs) / n**0.5)


def table(rows: Iterable[Row], names: dict[str, str], samples: int) -> str:
  """Returns a table in Markdown, a line for each name of flags that has rows."""
  by_seed = {
    name: {r.seed: r for r in rows if (r.flags, r.samples) == (flags, samples)}
    for name, flags in names.items()
  }
  base = next(iter(by_seed.values()), {})
  lines = [
    '| | seeds | seconds | accuracy, % | FD | accuracy: change | FD: change |',
    7 * '|---' + '|',
  ]
  for name, runs in by_seed.items():
    seeds = sorted(runs.keys() & base.keys())
    if not seeds:
      continue
    of = {x: [getattr(runs[s], x) for s in seeds] for x in Row._fields[3:]}
    cells = [name, len(seeds), *(f'{statistics.mean(of[x]):.{n}f}' for x, n in _DIGITS.items())]
    if runs is not base:
      pairs = (difference(of[x], [getattr(base[s], x) for s in seeds]) for x in ('accuracy', 'fd'))
      cells += pairs
    lines.append('| ' + ' | '.join(map(str, [*cells, '', ''][:7])) + ' |')
  return '\n'.join(lines)


_DIGITS = {'seconds': 0, 'accuracy': 2, 'fd': 3}  # decimals of a column


def main() -> None:
  """Runs what is missing, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('track', choices=[*TRACKS])
  parser.add_argument('--seeds', type=int, default=3, help='seeds 0, 1, ... of each')
  parser.add_argument('--only', default='', help='names of tricks, with ; between them')
  parser.add_argument('--records', action='store_true', help='the records in place of the tricks')
  parser.add_argument('--entry', default='', help='flags of your entry, beside the first record')
  parser.add_argument('--samples', type=int, default=2000)
  parser.add_argument('--core', type=int, default=0)
  parser.add_argument('--judge', default='', help='the file of the classifier of MNIST')
  parser.add_argument('--out', type=Path, default=Path('runs/speedrun'))
  args = parser.parse_args()
  track = TRACKS[args.track]
  names = entries(track, args.records, args.entry)
  wanted = [x for x in args.only.split(';') if x]
  if unknown := [x for x in wanted if x not in names]:
    parser.error(f'--only: {unknown[0]!r} is not one of {"; ".join(names)}')
  if (args.track == 'mnist') != bool(args.judge):
    parser.error(f'--judge={args.judge!r}: mnist needs the file of a classifier, digits have none')
  if args.seeds < 1:
    parser.error(f'--seeds={args.seeds} must be 1 or more')
  base = next(iter(names))
  names = {name: names[name] for name in names if not wanted or name in (base, *wanted)}
  args.out.mkdir(parents=True, exist_ok=True)
  judge = args.judge and str(Path(args.judge).resolve())  # launch.py runs in another folder
  path = args.out / f'{args.track}.jsonl'
  for seed in range(args.seeds):
    for name, flags in names.items():
      if any((r.flags, r.seed, r.samples) == (flags, seed, args.samples) for r in read(path)):
        continue
      try:
        row = run(
          track, flags, seed, samples=args.samples, core=args.core, out=args.out, judge=judge
        )
      except RuntimeError as error:
        parser.error(f'{name}: {error}')
      with path.open('a') as file:
        file.write(json.dumps(row._asdict()) + '\n')
      print(
        f'{name}, seed {seed}: {row.seconds} s, {row.accuracy:.2f} %, fd {row.fd:.3f}', flush=True
      )
  print(table(read(path), names, args.samples))


if __name__ == '__main__':
  main()

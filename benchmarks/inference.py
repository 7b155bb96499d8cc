"""C2ST of posteriors of the benchmark's tasks, next to published figures.

  python -m benchmarks.inference --references=folder   # 10,000 simulations
  python -m benchmarks.inference --references=folder --tasks=slcp,sir \
    --simulations=1000,100000 --seeds=0,1 --flags='network.dropout=0.1'
  python -m benchmarks.inference --references=folder --joint  # configs/joint.py
  python -m benchmarks.inference --references=folder --peers=NPE,NPSE,FMPE \
    --sbi=python   # of an environment with the package sbi

The folder has npz files observations_*.npz with `<task>/<i>/observation` and
`<task>/<i>/reference`, draws [N, D] of the reference posterior, in the units of
Lueckmann et al. 2021; and, if there are published figures, published_c2st.csv
with the columns task, num_simulations, algorithm, mean_of_observations_1_to_5.

Each row trains configs/inference.py by the program's own functions (`budget`
has what depends on the number of simulations, held-out ones included), and
trains again with five times the weight decay for as long as the last
training over-fitted and its held-out loss is the least, and then with twice the
steps for as long as the last step has the least: docs/inference.md. It draws
10,000 parameters for each observation, and compares them with as many of the
reference, in a minute or more. Finished rows are kept in <out>/rows.jsonl, runs
in <out> too.
Seconds are the processor's: of all trainings without compilation, and of 10,000
draws including the ones outside the box. Peers are methods of the package sbi
with its defaults, on the same simulations, in another process
(inference_peer.py).
"""

import argparse
import contextlib
import csv
import io
import itertools
import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import inference, joint
from diffusion_jax.app.config import experiments
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import weights
from diffusion_jax.app.train import mode as train
from diffusion_jax.app.train.setup import prepare
from diffusion_jax.data import npz
from diffusion_jax.data.simulated import of_simulator
from diffusion_jax.demos import simulators
from diffusion_jax.metrics.vectors import classifier_accuracy
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.run_folder import RunFolder

Row = dict[str, Any]
LOGARITHMS = 'sir', 'lotka_volterra'  # `demos.simulators` has log parameters
ALGORITHMS = 'NPE', 'SNPE', 'NLE', 'NRE'
PEERS = 'NPE', 'NPSE', 'FMPE'  # of the package sbi
DECAYS = 0.2, 1.0, 5.0  # of the weights, while a training over-fits
TIMES = 2, 4  # as many steps, while the last one has the least loss


def context_of(task: str, observation: np.ndarray) -> np.ndarray:
  """Returns an observation of the benchmark as our simulator would give it."""
  if task == 'sir':
    return np.log1p(observation[1:])  # nine days: the first count is known
  return np.log(observation) if task == 'lotka_volterra' else observation


def parameters_of(task: str, x: np.ndarray) -> np.ndarray:
  """Returns draws of our simulator's parameters in the benchmark's units."""
  return np.exp(x) if task in LOGARITHMS else x


def config_of(task: str, simulations: int, seed: int, flags: str, is_joint: bool = False) -> Node:
  """Returns the config of a training: the recipe and `flags`, a=1 b=2."""
  path = str(Path((joint if is_joint else inference).__file__))
  fields: dict[str, object] = {**inference.budget(simulations)}
  fields |= {'seed': seed, 'data.draws': seed}
  fields |= dict(flag.split('=', 1) for flag in flags.split())
  tree = store.completed(experiments.from_file(path, task))
  return store.with_flags(tree, [(n, str(x)) for n, x in fields.items()])


def fit(config: Node, run: Path) -> Row:
  """Trains; returns the seconds, the steps and the best step.

  The seconds are the time of a call after the first evaluation, when all
  programs are compiled, times the number of calls.
  """
  path, clock = run / 'cost.json', []
  if path.exists():
    return json.loads(path.read_text())

  def stop(call):
    clock.append(time.process_time())
    return ''

  with contextlib.redirect_stdout(io.StringIO()):
    train.train(prepare(config, RunFolder.at(run)), stop)
  clock.append(time.process_time())
  c = config.training
  calls = -(-c.held_out.every // c.steps_per_call)  # of an evaluation
  first = min(calls + 1, len(clock) - 2)
  rate = (clock[-1] - clock[first]) / (len(clock) - 1 - first)
  lines = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
  losses = [(x['test_loss'], x['step']) for x in lines if 'test_loss' in x]
  cost = {
    'train_seconds': rate * calls * losses[-1][1] / c.held_out.every,
    'steps': losses[-1][1],
    'best_step': min(losses)[1],
    'loss': min(losses)[0],
  }
  path.write_text(json.dumps(cost))
  return cost


def fit_again(
  task: str, simulations: int, seed: int, flags: str, out: Path, is_joint: bool = False
) -> tuple[Path, Row]:
  """Trains, with more weight decay while it over-fits; returns the best run."""
  run, best, seconds = out, {'loss': float('inf')}, 0.0
  field = 'optimizer.weight_decay'
  decays = [''] if field in flags else [f'{field}={x}' for x in DECAYS]
  for decay in decays:
    fields = ' '.join(filter(None, (flags, decay)))
    name = f'{task}{"-joint" * is_joint}-{simulations}-{seed}-{fields}'
    folder = out / name.replace(' ', '-').replace('/', '_')
    config = config_of(task, simulations, seed, fields, is_joint)
    cost = fit(config, folder)
    seconds += cost['train_seconds']
    if cost['loss'] > best['loss']:
      break
    run, best = folder, cost | {'weight_decay': config.optimizer.weight_decay}
    if cost['best_step'] > 0.75 * config.training.num_steps:
      break
  return run, best | {'train_seconds': seconds}


def fit_longer(
  task: str, simulations: int, seed: int, flags: str, run: Path, best: Row, is_joint: bool = False
) -> tuple[Path, Row]:
  """Trains with more steps while the last has the least loss; as above."""
  seconds, first = best['train_seconds'], run
  flags = f'{flags} optimizer.weight_decay={best["weight_decay"]}'
  for times in () if 'training.num_steps' in flags else TIMES:
    if best['best_step'] < best['steps']:
      break
    budget = inference.budget(simulations, times).items()
    more = ' '.join(f'{n}={x}' for n, x in budget if n.startswith('training'))
    folder = first.with_name(f'{first.name}-{times}-times')
    config = config_of(task, simulations, seed, f'{flags} {more}', is_joint)
    cost = fit(config, folder)
    seconds += cost['train_seconds']
    if cost['loss'] > best['loss']:
      break
    run, best = folder, best | cost
  return run, best | {'train_seconds': seconds}


def draw(run: Path, contexts: np.ndarray, seed: int) -> tuple[np.ndarray, Row]:
  """Draws for contexts [K, ...]; returns [K, 10,000, D] and what it cost."""
  make_folder(run, 'draws')
  np.save(run / 'draws' / 'context.npy', contexts)
  fields = {'context': run / 'draws' / 'context.npy', 'seed': seed}
  flags = [(f'sampling.{name}', str(x)) for name, x in fields.items()]
  config = store.of_run(RunFolder.at(run), store.open_run(RunFolder.at(run)), flags)
  opened = weights.Run.open(config, RunFolder.at(run))
  opened.check('sample')
  inputs = conditions.choose(opened.model)
  inputs = conditions.encoded(opened.model, opened.checkpoint[0], inputs)
  out, printed = run / 'draws' / f'{seed}.parts', io.StringIO()
  start = time.process_time()
  with contextlib.redirect_stdout(printed):
    paths = sample.draw_parts(opened, inputs, out)
  seconds = (time.process_time() - start) / len(contexts)
  x = np.concatenate([npz.read(path, ['arr_0'])['arr_0'] for path in paths])
  for path in paths:
    path.unlink()
  share = re.search(r'([\d.]+)% of the draws', printed.getvalue())
  costs = {'draw_seconds': seconds, 'outside': float(share[1]) if share else 0}
  return x.reshape(len(contexts), -1, *x.shape[1:]), costs


def peer(
  task: str,
  simulations: int,
  seed: int,
  method: str,
  known: Sequence[tuple[np.ndarray, np.ndarray]],
  out: Path,
  python: str,
) -> Row:
  """Trains, draws and scores by the package sbi; returns a row's figures."""
  fields, pairs = inference.budget(simulations), []
  box = inference.BOUNDS[task]
  for split in ('train', 'test'):
    source = of_simulator(
      simulators.BENCHMARK[task],
      split,
      fields['data.num_examples'],
      fields['data.num_test'],
      draws=seed,
      bounds=box,
    )
    pairs.append(source.read(np.arange(len(source))))
  theta, x = (np.concatenate([p[k] for p in pairs]) for k in ('x', 'context'))
  contexts = np.stack([context_of(task, y) for y, _ in known])
  shape = 2, theta.shape[1] if box else 0
  low, high = np.broadcast_to(np.reshape(box, (2, -1)), shape)
  given, drawn = out / 'simulations.npz', out / 'draws.npz'
  np.savez(given, theta=theta, x=x, contexts=contexts, low=low, high=high)
  script = Path(__file__).with_name('inference_peer.py').resolve()
  command = python, script, given.name, method, str(seed), drawn.name
  try:
    subprocess.run(command, cwd=out, check=True)
  except (OSError, subprocess.CalledProcessError) as error:
    raise SystemExit(
      f'--sbi={python} did not run {method}: {error}. It must be the Python of '
      'an environment with the package sbi'
    ) from error
  with np.load(drawn) as file:
    costs = {name: float(file[name]) for name in file if name != 'draws'}
    return {'c2st': scores_of(task, file['draws'], known), **costs}


def observations_in(folder: Path, task: str, numbers: Iterable[int]) -> list:
  """Returns (observation [M], reference draws [N, D]) of each number."""
  found = []
  for number in numbers:
    for path in sorted(folder.glob('observations_*.npz')):
      with np.load(path) as file:
        if f'{task}/{number}/observation' in file:
          names = 'observation', 'reference'
          found += [tuple(file[f'{task}/{number}/{name}'] for name in names)]
          break
    else:
      raise SystemExit(f'{folder} has no observation {number} of {task}')
  return found


def measure(
  task: str,
  simulations: int,
  seed: int,
  flags: str,
  known: Sequence[tuple[np.ndarray, np.ndarray]],
  out: Path,
  is_joint: bool = False,
) -> Row:
  """Trains, draws and scores; returns the figures of a row."""
  run, cost = fit_again(task, simulations, seed, flags, out, is_joint)
  run, cost = fit_longer(task, simulations, seed, flags, run=run, best=cost, is_joint=is_joint)
  contexts = np.stack([context_of(task, y) for y, _ in known])
  size = known[0][1].shape[1]
  if is_joint:
    contexts = np.pad(contexts, ((0, 0), (size, 0)), constant_values=np.nan)
  # The first draw compiles, and the others are timed.
  x, costs = draw(run, contexts[:1], 0)
  if len(contexts) > 1:
    others, costs = draw(run, contexts[1:], 1)
    x = np.concatenate([x, others])
  scores = scores_of(task, x, known)
  jax.clear_caches()
  return {'c2st': scores, **cost, **costs}


def scores_of(
  task: str, x: np.ndarray, known: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[float]:
  """Returns the C2ST of draws x [K, N, D] for each of K observations."""
  scores = []
  for drawn, (_, reference) in zip(x, known, strict=True):
    count = min(len(drawn), len(reference))
    drawn = np.asarray(drawn[:count, : reference.shape[1]], np.float64)
    drawn = parameters_of(task, drawn)
    scores.append(classifier_accuracy(drawn, reference[:count]).value)
  return scores


def published_in(folder: Path) -> dict[tuple[str, int, str], float]:
  """Returns published C2ST by (task, simulations, algorithm)."""
  path = folder / 'published_c2st.csv'
  if not path.exists():
    return {}
  with path.open() as file:
    return {
      (x['task'], int(x['num_simulations']), x['algorithm']): float(
        x['mean_of_observations_1_to_5']
      )
      for x in csv.DictReader(file)
    }


def table(rows: list[Row], published: dict) -> str:
  """Returns the rows in Markdown, the seeds of a task in one line."""
  head = 'task', 'simulations', 'C2ST', 'least, most', *ALGORITHMS
  head += 'weight decay', 'outside', 'steps, best'
  head += 'training, CPU s', '10,000 draws, CPU s'
  lines = [head, ('---',) * len(head)]
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault((_title(row), row['simulations']), []).append(row)
  for (title, simulations), group in groups.items():
    each = [statistics.fmean(row['c2st']) for row in group]
    every = [score for row in group for score in row['c2st']]
    known = (group[0]['task'], simulations)
    others = (published.get((*known, a)) for a in ALGORITHMS)
    seconds = [
      statistics.fmean(row[name] for row in group) for name in ('train_seconds', 'draw_seconds')
    ]
    ours = ['—'] * 3
    if 'weight_decay' in group[0]:
      outside = statistics.fmean(row['outside'] for row in group)
      ours = [
        ', '.join(f'{row["weight_decay"]:g}' for row in group),
        f'{outside:.1f} %',
        '; '.join(f'{row["steps"]:,}, {row["best_step"]:,}' for row in group),
      ]
    lines.append(
      (
        title,
        f'{simulations:,}',
        ', '.join(f'{x:.3f}' for x in each),
        f'{min(every):.3f}, {max(every):.3f}',
        *('—' if x is None else f'{x:.3f}' for x in others),
        *ours,
        f'{seconds[0]:.0f}',
        f'{seconds[1]:.1f}',
      )
    )
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _title(row: Row) -> str:
  return ', '.join(filter(None, (row['task'], row['method'])))


def main() -> None:
  """Measures the rows that are missing, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--references', required=True, type=Path)
  parser.add_argument('--tasks', help='all by default')
  parser.add_argument('--simulations', default='10000')
  parser.add_argument('--seeds', default='0')
  parser.add_argument('--observations', default='1,2,3,4,5')
  parser.add_argument('--flags', default='', help='network.dropout=0.1 ...')
  parser.add_argument('--peers', default='', help='NPE,NPSE,FMPE of sbi')
  parser.add_argument('--sbi', default='python', help='its interpreter')
  parser.add_argument('--joint', action='store_true', help='configs/joint.py')
  parser.add_argument('--out', default='runs/inference', type=Path)
  args = parser.parse_args()
  known = (joint if args.joint else inference).VARIANTS
  tasks = args.tasks.split(',') if args.tasks else known
  if unknown := {*tasks} - {*known}:
    raise SystemExit(f'--tasks: {", ".join(sorted(unknown))} is not one of {", ".join(known)}')
  compiling.keep_compilations()
  path = make_folder(args.out) / 'rows.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  done, wanted = [json.loads(line) for line in lines], []
  numbers = [int(i) for i in args.observations.split(',')]
  ours = 'joint' if args.joint else ''
  peers = [name for name in args.peers.split(',') if name]
  if unknown := {*peers} - {*PEERS}:
    raise SystemExit(f'--peers: {", ".join(sorted(unknown))} is not one of {", ".join(PEERS)}')
  methods = [ours, *(f'sbi {name}' for name in peers)]
  sizes = [int(n) for n in args.simulations.split(',')]
  seeds = [int(n) for n in args.seeds.split(',')]
  for simulations, seed, task, method in itertools.product(sizes, seeds, tasks, methods):
    key = {'task': task, 'simulations': simulations, 'seed': seed}
    is_peer = method != ours
    key |= {'method': method, 'flags': '' if is_peer else args.flags}
    key |= {'observations': numbers}
    row = next((row for row in done if key.items() <= row.items()), None)
    if row is None:
      found = observations_in(args.references, task, numbers)
      if is_peer:
        row = key | peer(
          task, simulations, seed, method[4:], known=found, out=args.out, python=args.sbi
        )
      else:
        row = key | measure(
          task, simulations, seed, args.flags, known=found, out=args.out, is_joint=args.joint
        )
      with path.open('a') as file:
        file.write(json.dumps(row) + '\n')
    wanted.append(row)
    print(
      f'{_title(row)}, {simulations:,} simulations, seed {seed}: C2ST',
      *(f'{score:.3f}' for score in row['c2st']),
      flush=True,
    )
  print(table(wanted, published_in(args.references)))


if __name__ == '__main__':
  main()

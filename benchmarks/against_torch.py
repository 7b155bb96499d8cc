r"""Speed of ours against torch and diffusers, taken in turns in one run.

  python -m benchmarks.against_torch                        # extra [bench]
  python -m benchmarks.against_torch --ddim_steps=10 --out=against_torch.json
  python -m benchmarks.against_torch --smoke                # a tiny network

Forward pass, training step (loss, gradient, Adam, average) and DDIM sampling of
DDPM's network for CIFAR-10, EDM's, DiT-S/2, and on a GPU ADM's for ImageNet 64;
without DDIM, Stable Diffusion's autoencoder and EDM2's network XS (a module of
`edm2_torch`), both for 64x64 images. diffusers has no DDPM++: EDM's is compared
with a UNet2DModel of the same widths and number of blocks. On a CPU both sides
compute in float32 with batches of 8 (2 of the last two networks), and
--torch_compile adds torch.compile as a third side. On a GPU both compute in
bfloat16 with batches of 128 to 1024, and torch is compiled.

A ratio is torch's time over ours in one round, so ours is faster above 1. The
table has the median over the rounds and the quartiles, for the faster of torch
and torch.compile. FLOP are counted for all products (3 forward passes in a
training step), and by XLA. The share of the device's rate (MFU) is relative to
the fastest product of matrices of all sides.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path

import numpy as np

from benchmarks import cases, turns
from benchmarks.turns import Case, Failed, Worker

TASKS = ('forward', 'train', 'ddim')
SIDES = {'ours': 'benchmarks.jax_side'}
SIDES |= dict.fromkeys(('torch', 'compiled'), 'benchmarks.torch_side')
GPU_BATCHES = (128, 256, 512, 1024)


def processor() -> str:
  """Returns the name of the CPU."""
  path = Path('/proc/cpuinfo')
  for line in path.read_text().splitlines() if path.exists() else ():
    if line.startswith('model name'):
      return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


def has_gpu() -> bool:
  """Says whether an NVIDIA GPU answers, without loading jax or torch."""
  try:
    listing = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True)
  except OSError:
    return False
  return listing.returncode == 0 and 'GPU' in listing.stdout


def compare(workers, case: Case, tasks, rounds, least_seconds) -> list[dict]:
  """Returns a record for each task of a case, with an 'error' if it failed.

  With a worker 'compiled', 'torch' is measured without torch.compile.
  """
  records = []
  sides = dict.fromkeys(workers, case)
  if 'compiled' in workers:
    sides['torch'] = case._replace(compiled=False)
    sides['compiled'] = case._replace(compiled=True)
  about = case._asdict()
  try:
    for name, worker in workers.items():
      worker.call('open', sides[name])
    facts = {name: worker.call('facts') for name, worker in workers.items()}
    if cases.network_of(case).exact:
      about['difference'] = difference(workers['ours'], workers['torch'])
  except Failed as error:
    return [about | {'task': task, 'error': str(error)} for task in tasks]
  forward = None
  for task in tasks:
    record = about | {'task': task, 'facts': facts}
    records.append(record)
    try:
      info = {name: w.call('ready', task) for name, w in workers.items()}
      times = turns.in_turns(workers, rounds, least_seconds)
      peaks = {name: w.call('peak') for name, w in workers.items()}
    except Failed as error:
      record['error'] = str(error)
      if 'its process ended' in record['error']:
        break
      continue
    forward = info['ours']['xla_flop'] if task == 'forward' else forward
    record |= measured(case, task, facts, info, times, forward)
    record['peak_bytes'] = peaks
    print(row(record), flush=True)
  return records


def difference(ours: Worker, torch: Worker) -> float:
  """Returns the largest difference of outputs for the same weights.

  Relative to the largest output.
  """
  *inputs, expected = ours.call('export')
  found = torch.call('compute', *inputs)
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def measured(case, task, facts, info, times, forward_xla) -> dict:
  """Returns the figures of one task from its times."""
  per_call = {'forward': 1, 'train': 3, 'ddim': case.ddim_steps}[task]
  flop = per_call * facts['ours']['forward_flop']
  # XLA counts the body of a loop once.
  xla = info['ours']['xla_flop']
  xla = case.ddim_steps * (forward_xla or np.nan) if task == 'ddim' else xla
  rate = max(side['matmul_flop_per_s'] for side in facts.values())
  torch = times['torch']
  if 'compiled' in times:  # the faster by wall clock
    torch = [min(pair) for pair in zip(torch, times['compiled'], strict=True)]
  found = {
    'info': info,
    'times': times,
    'ratio': turns.spread(turns.ratios(torch, times['ours'])),
    'cpu_ratio': turns.spread(turns.ratios(torch, times['ours'], 1)),
    'flop': flop,
    'matmul_flop_per_s': rate,
  }
  for name in times:
    seconds = statistics.median(wall for wall, _ in times[name])
    found[name] = {
      'seconds': seconds,
      'images_per_s': case.batch / seconds,
      'flop_per_s': flop / seconds,
      'mfu': flop / seconds / rate,
    }
  found['ours']['mfu_by_xla'] = (xla or np.nan) / found['ours']['seconds'] / rate
  return found


HEADER = (
  'network, batch, task',
  'ours',
  'torch; compiled',
  'torch / ours (quartiles)',
  'of processor times',
  'images/s, ours',
  'GFLOP/s, ours',
  'MFU by products, by XLA; torch',
  'peak MB, ours; torch',
)


def row(record: dict) -> str:
  """Returns the row of a record in a table of Markdown."""
  what = f'{record["network"]}, {record["batch"]}, {record["task"]}'
  if record['task'] == 'ddim':
    what += f' {record["ddim_steps"]}'
  if 'error' in record:
    return f'| {what} | {record["error"]} |' + ' |' * (len(HEADER) - 2)
  ours, torch, ratio = record['ours'], record['torch'], record['ratio']
  peaks = record['peak_bytes']
  cells = (
    what,
    f'{ours["seconds"]:.4g} s',
    '; '.join(
      f'{record[name]["seconds"]:.4g} s'
      for name in ('torch', 'compiled')
      if name in record['times']
    ),
    f'**{ratio["median"]:.2f}** ({ratio["low"]:.2f} to {ratio["high"]:.2f})',
    f'{record["cpu_ratio"]["median"]:.2f}',
    f'{ours["images_per_s"]:.3g}',
    f'{ours["flop_per_s"] / 1e9:.0f}',
    f'{ours["mfu"]:.0%}, {ours["mfu_by_xla"]:.0%}; {torch["mfu"]:.0%}',
    f'{peaks["ours"] / 1e6:.0f}; {peaks["torch"] / 1e6:.0f}',
  )
  return f'| {" | ".join(cells)} |'


def plan(args, gpu: bool) -> list[tuple[Case, list[str]]]:
  """Returns the cases that the options choose, with the tasks of each."""
  if args.smoke:
    chosen = [Case(name, 2, ddim_steps=3) for name in cases.SMOKE]
  else:
    large = 'adm', 'dit_xl'
    default = [name for name in cases.NETWORKS if gpu or name not in large]
    dtype = args.dtype or ('bfloat16' if gpu else 'float32')
    compiled = gpu if args.torch_compile is None else args.torch_compile
    chosen = [
      Case(name, int(batch), dtype, args.ddim_steps, args.remat, compiled)
      for name in args.networks or default
      for batch in args.batches or (GPU_BATCHES if gpu else [cases.NETWORKS[name].batch])
    ]
  return [(case, [t for t in args.tasks if t in cases.network_of(case).tasks]) for case in chosen]


def listed(text: str) -> list[str]:
  """Returns the parts of a,b,c."""
  return [part for part in text.split(',') if part]


def options(argv=None):
  """Returns the options of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  names = ','.join(cases.NETWORKS)
  parser.add_argument('--networks', type=listed, help=f'of {names}')
  parser.add_argument('--tasks', type=listed, default=TASKS)
  parser.add_argument('--batches', type=listed)
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'))
  parser.add_argument('--ddim_steps', type=int, default=50)
  parser.add_argument('--rounds', type=int, default=7, help='timed pairs')
  parser.add_argument('--remat', action='store_true', help='on both sides')
  parser.add_argument(
    '--torch_compile',
    action=argparse.BooleanOptionalAction,
    help='also measure torch.compile (by default on GPUs, instead of plain)',
  )
  parser.add_argument('--out', default='against_torch.json')
  parser.add_argument('--smoke', action='store_true', help='a tiny network')
  args = parser.parse_args(argv)
  for name, known in (('networks', cases.NETWORKS), ('tasks', TASKS)):
    for part in getattr(args, name) or ():
      if part not in known:
        parser.error(f'--{name}: {part!r} is not one of {", ".join(known)}')
  for name in args.networks or ():
    if not set(args.tasks) & {*cases.NETWORKS[name].tasks}:
      parser.error(f'{name} is compared in other tasks: forward, train')
  for batch in args.batches or ():
    if not batch.isdigit() or not int(batch):
      parser.error(f'--batches: {batch!r} is not a number of images')
  return args


def main(argv=None) -> None:
  """Measures, prints the table and writes the JSON file."""
  args = options(argv)
  gpu = has_gpu()
  where = {
    'cpu': processor(),
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    'load': os.getloadavg(),
  }
  print(f'{where["cpu"]}, {where["cores"]} cores, load {where["load"][0]:.1f}')
  print(f'| {" | ".join(HEADER)} |\n|{"---|" * len(HEADER)}', flush=True)
  records, workers = [], {}
  names = ['ours', 'torch'] + ['compiled'] * bool(args.torch_compile)
  rounds, least = (2, 0.0) if args.smoke else (args.rounds, 0.5)
  with contextlib.ExitStack() as stack:
    for case, tasks in plan(args, gpu):
      if not (args.smoke and workers):  # else the memory of another case
        stack.close()
        workers = {n: stack.enter_context(Worker(SIDES[n])) for n in names}
      found = compare(workers, case, tasks, rounds, least)
      for record in found:
        if 'error' in record:
          print(row(record), flush=True)
      records += found
      text = json.dumps({'machine': where, 'records': records}, indent=1)
      Path(args.out).write_text(text)
  print('\n' + summary(records))
  print(f'wrote {args.out}')
  if all('error' in record for record in records):
    raise SystemExit('nothing could be measured: see the errors above')


def summary(records: list[dict]) -> str:
  """Returns lines on the versions, the devices and the networks."""
  lines = []
  for record in records:
    if 'facts' not in record:
      continue
    facts, versions = record['facts'], {}
    for side in facts.values():
      versions |= side['versions']
    lines.append(', '.join(f'{name} {v}' for name, v in versions.items()))
    rates = ', '.join(
      f'{name} {side["matmul_flop_per_s"] / 1e9:.0f} GFLOP/s' for name, side in facts.items()
    )
    lines.append(f'{facts["ours"]["device"]}; product of matrices: {rates}')
    break
  for name in dict.fromkeys(record['network'] for record in records):
    first = next(r for r in records if r['network'] == name)
    if 'facts' in first:
      ours, torch = (first['facts'][s]['parameters'] for s in ('ours', 'torch'))
      line = f'{name}: {ours:,} parameters, torch {torch:,}'
      if 'difference' in first:
        line += f', outputs differ by {first["difference"]:.1e} of the largest'
      lines.append(line)
  return '\n'.join(lines)


if __name__ == '__main__':
  main()

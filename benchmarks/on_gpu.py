"""Times our programs on a GPU against torch.compile, a row at a time.

  python -m benchmarks.on_gpu                           # extra [bench]
  python -m benchmarks.on_gpu --only=dit_train,ddpm_train --budget=300
  python -m benchmarks.on_gpu --profile=dit_train       # time by operation
  python -m benchmarks.on_gpu --tiny                    # small, on a CPU

Training steps, forward passes and DDIM in 50 steps, in bfloat16. Each side of a
part is a process, and several parts compile side by side. When both sides of a
part are ready, all other processes are stopped, and the two are timed in turns.
The row is printed and added to --out at once. The same command continues: rows
of the same sources, versions and device are not measured again. --tiny has
torch without compilation.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import queue
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import operations, turns
from benchmarks.against_torch import SIDES, processor
from benchmarks.turns import Case, Failed, Worker

Part = tuple[dict[str, Case], str]  # by side; task
ROOT = Path(__file__).parents[1]
HEADER = (
  '| part, batch | ours | torch | torch / ours | images/s; TFLOP/s, ours | '
  'peak GB, ours; torch | after s |\n' + '|---' * 7 + '|'
)
# (batch, GiB that ours and torch may take), by the time of compilation: on an
# H100 12 to 26 s for dit, 60 to 75 for ddpm, 130 for dit_xl; adm took longer.
PARTS = {
  'dit_forward': (256, 7, 7),
  'dit_train': (256, 17, 14),
  'ddpm_forward': (128, 5, 5),
  'ddpm_train': (128, 7, 7),
  'dit_ddim': (256, 7, 7),
  'ddpm_ddim': (128, 5, 5),
  'autoencoder_train': (32, 20, 18),
  'edm_train': (128, 18, 16),
  'edm2_train': (32, 22, 20),
  'dit_xl_train': (64, 42, 35),
  'adm_train': (64, 38, 36),
}
OUTSIDE = 1  # GiB of a process that its allocator does not count
LIVE = max(2, min(4, (os.cpu_count() or 1) // 4))  # parts at a time
JAX_COMPILES = 2  # at a time: XLA races kernels on the GPU


def device() -> tuple[str, float]:
  """Returns the name of the first NVIDIA GPU, '' without one, and its GiB."""
  asked = '--query-gpu=name,memory.total', '--format=csv,noheader,nounits'
  try:
    answer = subprocess.check_output(['nvidia-smi', *asked], text=True)
    name, mib = answer.splitlines()[0].rsplit(',', 1)
    return name, float(mib) / 1024
  except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
    return '', 0.0


def conditions(name: str) -> dict[str, Any]:
  """Returns what a row depends on; name: of the device."""
  digest = hashlib.sha256()
  for folder in ('benchmarks', 'configs', 'diffusion_jax'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      digest.update(path.read_bytes())
  versions = {}
  for package in ('jax', 'jaxlib', 'torch', 'diffusers'):
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[package] = metadata.version(package)
  sources = digest.hexdigest()[:12]
  return {'sources': sources, 'versions': versions, 'device': name}


def stored(path: Path, key: dict[str, Any]) -> dict[str, dict]:
  """Returns the rows with equal conditions in a file of JSON lines, by part.

  Rows with the error of a side are left out, to be measured again.
  """
  path.touch()
  rows = [json.loads(text) for text in path.read_text().splitlines()]
  return {row['part']: row for row in rows if key.items() <= row.items() and is_good(row)}


def is_good(row: dict[str, Any]) -> bool:
  """Returns whether no side of a row has an error."""
  return not any('error' in row.get(side, ()) for side in SIDES)


def part(name: str, tiny: bool, memory: float = math.inf) -> Part:
  """Returns (the cases of ours and torch, task); memory: GiB of the device."""
  network, _, task = name.rpartition('_')
  batch, *gib = PARTS[name]
  case = Case(network, batch, 'bfloat16', compiled=True)
  case = Case(f'smoke_{network}', 2, ddim_steps=3) if tiny else case
  shares = [min(1.0, x / memory) for x in gib]  # of infinity 0: no limit
  ours, torch = (case._replace(memory=share) for share in shares)
  return {'ours': ours, 'torch': torch}, task


def measure(parts: dict[str, Part], outside: float, end: float) -> Iterator[dict[str, Any]]:
  """Yields the row of each part when it is ready, until time.monotonic() = end.

  A part begins when the device has memory for all processes: an allocator of
  JAX or torch takes at most Case.memory of it, and `outside` is what a process
  needs in addition.
  """
  slots = {'ours': threading.Semaphore(JAX_COMPILES)}
  waiting, live, ready = list(parts), {}, queue.SimpleQueue()

  def fits(name):
    cases = [case for x in (*live, name) for case in parts[x][0].values()]
    shares = sum(case.memory + outside for case in cases)
    return len(live) < LIVE and shares <= 1.0

  def prepare(name, side, worker):
    try:
      worker.call('open', parts[name][0][side])
      with slots.get(side, contextlib.nullcontext()):
        info = worker.call('ready', parts[name][1])
    except Failed as error:
      info = {'error': str(error)}
    ready.put((name, side, info))

  try:
    while (waiting or live) and (left := end - time.monotonic()) > 0:
      while waiting and (not live or fits(waiting[0])):
        name = waiting.pop(0)
        live[name] = {side: Worker(SIDES[side]) for side in parts[name][0]}, {}
        for both in live[name][0].items():
          threading.Thread(target=prepare, args=(name, *both)).start()
      left = min(left, threading.TIMEOUT_MAX)
      name, side, info = ready.get(timeout=left)
      workers, infos = live[name]
      infos[side] = info
      if len(infos) == len(workers):
        others = [w for x in live if x != name for w in live[x][0].values()]
        with turns.stopped(others):
          row = time_in_turns(*parts[name], workers, infos)
        for worker in workers.values():
          worker.kill()
        del live[name]
        yield {'part': name, **row}
  except queue.Empty:  # the end
    return
  finally:
    for worker in [w for both, _ in live.values() for w in both.values()]:
      worker.kill()


def time_in_turns(cases, task, workers, infos) -> dict[str, Any]:
  """Returns the figures of the sides of a part, and their errors."""
  good = {side: w for side, w in workers.items() if 'error' not in infos[side]}
  case = cases['ours']
  row = {'batch': case.batch, **infos}
  calls = {'forward': 1, 'train': 3, 'ddim': case.ddim_steps}[task]
  try:
    times = turns.in_turns(good, 5, 0.4)
    for side, worker in good.items():
      seconds = statistics.median(wall for wall, _ in times[side])
      figures = {'ms': 1e3 * seconds, 'images_per_s': case.batch / seconds}
      if side == 'ours':
        flop = calls * worker.call('forward_flop')
        figures['tflop_per_s'] = flop / seconds / 1e12
      figures |= {'peak_gb': worker.call('peak') / 1e9, 'times': times[side]}
      row[side] |= figures
  except Failed as error:
    row |= {side: {'error': str(error)} for side in good}
  return row


def line(row: dict[str, Any]) -> str:
  """Returns a row in Markdown."""
  both = row['ours'], row.get('torch', {'error': 'not installed'})
  good, speed, ratio = [s for s in both if 'ms' in s], '-', '-'
  if 'ms' in both[0]:
    speed = f'{both[0]["images_per_s"]:.4g}; {both[0]["tflop_per_s"]:.3g}'
  if len(good) == 2:
    ratio = f'**{both[1]["ms"] / both[0]["ms"]:.2f}**'
  cells = [
    f'{row["part"]}, {row["batch"]}',
    *(s.get('error') or f'{s["ms"]:.4g} ms' for s in both),
    *(ratio, speed),
    '; '.join(f'{s["peak_gb"]:.1f}' for s in good),
    f'{row["after"]:.0f}',
  ]
  return f'| {" | ".join(cells)} |'


def main(argv=None) -> None:
  """Prints the rows that are stored, and measures the others."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default=','.join(PARTS), help='parts: a,b')
  parser.add_argument('--budget', type=float, default=math.inf, help='seconds')
  parser.add_argument('--out', type=Path, default=Path('on_gpu.jsonl'))
  parser.add_argument('--profile', metavar='NAME', help='a part')
  parser.add_argument('--tiny', action='store_true')
  args = parser.parse_args(argv)
  names = [args.profile] if args.profile else args.only.split(',')
  for name in names:
    if name not in PARTS:
      parser.error(f'{name!r} is not a part; the parts are {", ".join(PARTS)}')
  gpu, memory = (f'{processor()}, tiny', math.inf) if args.tiny else device()
  if not gpu:
    parser.error('nvidia-smi finds no GPU: --tiny tries this on a CPU')
  if args.profile:
    cases, task = part(args.profile, args.tiny)
    return print(operations.measure(cases['ours'], task))
  key = conditions(gpu)
  try:
    rows = stored(args.out, key)
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    parser.error(f'--out: {args.out} has no rows, choose another file: {error}')
  parts = {name: part(name, args.tiny, memory) for name in names}
  if not (find_spec('torch') and find_spec('diffusers')):
    print("torch is not measured: it needs pip install -e '.[bench]'")
    for cases, _ in parts.values():
      del cases['torch']
  print(f'{gpu}, {key["versions"]}\n{HEADER}', flush=True)
  for name in [name for name in parts if name in rows]:
    print(line(rows[name]), flush=True)
    del parts[name]
  began, failed = time.monotonic(), list(parts)
  with args.out.open('a') as file:
    end = began + args.budget
    for row in measure(parts, OUTSIDE / memory, end):
      row |= key | {'after': time.monotonic() - began}
      file.write(json.dumps(row) + '\n')
      file.flush()
      print(line(row), flush=True)
      if is_good(row):
        failed.remove(row['part'])
  if failed:
    raise SystemExit(f'to be measured by the next call: {", ".join(failed)}')


if __name__ == '__main__':
  main()

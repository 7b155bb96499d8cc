"""Measures all figures of a GPU, the most useful ones first.

  python -m benchmarks.on_gpu --fill=docs/performance.md

Each part is a separate process and ends within --limit seconds. Its result is
written to --out at once, and a second call continues with the missing parts.
--fill writes the table between the marks of a Markdown file. --smoke measures
tiny networks, on any device.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PYTHON = sys.executable, '-m'
MARKS = '<!-- on_gpu: begin -->', '<!-- on_gpu: end -->'
MISSING = 'not measured yet'
# (network, batch); the published batch sizes first
PUBLISHED = ('ddpm', 128), ('edm', 512), ('adm', 128), ('dit', 256)
PAIRS = (
  *PUBLISHED,
  *(('ddpm', 512), ('edm', 128), ('adm', 256), ('ddpm', 256), ('ddpm', 1024)),
  *(('edm', 256), ('edm', 1024), ('dit', 512), ('adm', 512), ('adm', 1024)),
)
ALONE = 'attention', 'memory'


def parts(smoke: bool, ddim_steps: int) -> dict[str, list[str]]:
  """Returns the command of each part; {out} stands for its JSON file."""
  tests = [*PYTHON, 'pytest', '-n', '0', '-q', '-m', 'device', 'tests/device']
  found = {'tests': [*tests, '--junitxml={out}']}
  against = [*PYTHON, 'benchmarks.against_torch', '--out={out}']
  if smoke:
    found['smoke, 2'] = [*against, '--smoke']
  for network, batch in () if smoke else PAIRS:
    # DDIM is last, because it is the longest and may meet the time limit.
    found[f'{network}, {batch}'] = [
      *against,
      f'--networks={network}',
      f'--batches={batch}',
      '--tasks=train,forward,ddim',
      f'--ddim_steps={ddim_steps}',
      '--rounds=5',
    ]
  more = ['--smoke'] if smoke else []
  alone = {
    name: [*PYTHON, 'benchmarks.device_parts', name, '--out={out}', *more]
    for name in ALONE
  }
  # Parts without sizes follow the published sizes.
  first = dict(list(found.items())[: 1 + len(PUBLISHED)])
  return first | alone | found


def run(command: list[str], limit: float) -> dict[str, Any]:
  """Runs a part; returns its result, its seconds and how it ended."""
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / 'out.json'
    command = [word.format(out=out) for word in command]
    start = time.perf_counter()
    process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    try:
      text, _ = process.communicate(timeout=limit)
      ended = f'exit code {process.returncode}'
    except subprocess.TimeoutExpired:
      # With its own workers, which would hold the GPU.
      os.killpg(process.pid, signal.SIGKILL)
      text, _ = process.communicate()
      ended = f'stopped after {limit:.0f} s'
    found = {'ended': ended, 'seconds': time.perf_counter() - start}
    found['output'] = text[-3000:]
    if out.is_file():
      content = out.read_text()
      xml = content.startswith('<')
      found['result'] = content[:3000] if xml else json.loads(content)
    return found


def records(results: dict[str, Any]) -> dict[tuple, dict]:
  """Returns records of benchmarks.against_torch by (network, batch, task)."""
  return {
    (r['network'], r['batch'], r['task']): r
    for found in results.values()
    if isinstance(found.get('result'), dict)
    for r in found['result'].get('records', ())
  }


def table(results: dict[str, Any]) -> str:
  """Returns the table of docs/performance.md, in Markdown."""
  known = records(results)
  devices = {
    r['facts']['ours']['device'] for r in known.values() if 'facts' in r
  }
  lines = [
    f'Device: {", ".join(sorted(devices)) or MISSING}; bfloat16.',
    '',
    '| network, batch | training: images/s, torch / ours, MFU | sampling: '
    'images/s, torch / ours | 50,000 samples | peak memory, ours; torch |',
    '|---|---|---|---|---|',
  ]
  chosen = dict.fromkeys((n, b) for n, b, _ in known) or PAIRS
  for network, batch in sorted(chosen):
    train = known.get((network, batch, 'train'), {})
    ddim = known.get((network, batch, 'ddim'), {})
    cells = f'{network}, {batch}', rate(train, mfu=True), rate(ddim)
    lines.append(f'| {" | ".join((*cells, hours(ddim), peaks(train)))} |')
  return '\n'.join(lines)


def rate(record: dict, mfu: bool = False) -> str:
  """Returns images/s, the ratio and the MFU of a record, or why not."""
  if 'ratio' not in record:
    return record.get('error', MISSING)
  ours, ratio = record['ours'], record['ratio']
  share = f', {ours["mfu"]:.0%}' if mfu else ''
  return f'{ours["images_per_s"]:.3g}, {ratio["median"]:.2f}{share}'


def hours(record: dict) -> str:
  """Returns the time of 50,000 samples by the record's rate."""
  if 'ours' not in record:
    return MISSING
  minutes = 50_000 / record['ours']['images_per_s'] / 60
  return f'{minutes:.1f} min of {record["ddim_steps"]} steps'


def peaks(record: dict) -> str:
  """Returns the peak memory of both sides."""
  if 'peak_bytes' not in record:
    return MISSING
  both = record['peak_bytes']
  return f'{both["ours"] / 1e9:.1f}; {both["torch"] / 1e9:.1f} GB'


def fill(path: Path, text: str) -> None:
  """Writes text between the marks of a file; SystemExit without marks."""
  content = path.read_text()
  if not all(mark in content for mark in MARKS):
    raise SystemExit(f'{path} has no lines {" and ".join(MARKS)}')
  head, _, rest = content.partition(MARKS[0])
  _, _, tail = rest.partition(MARKS[1])
  path.write_text(f'{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}')


def main(argv=None) -> None:
  """Measures the parts that are missing; prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=Path, default=Path('on_gpu.json'))
  parser.add_argument('--fill', type=Path, help='a Markdown file with marks')
  parser.add_argument('--limit', type=float, default=175.0, help='of a part, s')
  parser.add_argument('--total', type=float, default=1e9, help='of all, s')
  parser.add_argument('--ddim_steps', type=int, default=50)
  parser.add_argument('--smoke', action='store_true')
  args = parser.parse_args(argv)
  if args.fill and not args.fill.is_file():
    parser.error(f'--fill: there is no file {args.fill}')
  results = json.loads(args.out.read_text()) if args.out.is_file() else {}
  end = time.monotonic() + args.total
  for name, command in parts(args.smoke, args.ddim_steps).items():
    left = min(args.limit, end - time.monotonic())
    is_done = results.get(name, {}).get('ended') == 'exit code 0'
    if is_done or left < 5.0:
      continue
    results[name] = run(command, left)
    args.out.write_text(json.dumps(results, indent=1))
    found = results[name]
    print(f'{name}: {found["ended"]}, {found["seconds"]:.0f} s', flush=True)
    if args.fill:
      fill(args.fill, table(results))
  print(table(results))


if __name__ == '__main__':
  main()

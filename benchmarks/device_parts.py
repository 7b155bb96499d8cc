"""Parts of benchmarks.on_gpu that need no other package.

python -m benchmarks.device_parts attention --out=attention.json

A part yields (name, result), and the file is written after each of them.
"""

import argparse
import json
import os
from pathlib import Path

# Without preallocation the peak of the memory is the program's.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax

from benchmarks import jax_side, turns
from benchmarks.turns import Case


def attention(smoke):
  """Yields figures of ADM's training step, attention by XLA and by cuDNN."""
  for name in ('xla', 'cudnn'):
    yield name, figures(smoke, attention=name)


def memory(smoke):
  """Yields figures of ADM's training step, with remat and without."""
  # The smaller first, because the peak counts from the start of the process.
  yield 'remat', figures(smoke, remat=True)
  yield 'all stored', figures(smoke)


def figures(smoke, **options):
  """Returns bytes and seconds of a training step, or its error."""
  network, batch = ('smoke', 2) if smoke else ('adm', 64)
  try:
    side = jax_side.Side(Case(network, batch, 'bfloat16', **options))
    info = side.prepare('train')
    times = [turns.time_calls(side, 2)[0] for _ in range(4)][1:]
  except Exception as error:
    return f'{type(error).__name__}: {str(error).splitlines()[0]}'
  return {
    'temporary_bytes': info['temporary_bytes'],
    'peak_bytes': side.peak(),
    'seconds': turns.spread(times)['median'],
  }


PARTS = {f.__name__: f for f in (attention, memory)}


def main(argv=None):
  """Measures one part and writes its JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('part', choices=PARTS)
  parser.add_argument('--out', required=True)
  parser.add_argument('--smoke', action='store_true')
  args = parser.parse_args(argv)
  found = {'device': jax.devices()[0].device_kind}
  for name, result in PARTS[args.part](args.smoke):
    found[name] = result
    Path(args.out).write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
  main()

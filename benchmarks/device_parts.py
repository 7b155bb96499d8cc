"""Parts of benchmarks.on_gpu that need no other package.

python -m benchmarks.device_parts attention --out=attention.json

A part yields (name, result), and the file is written after each of them.
"""

import argparse
import collections
import functools
import glob
import json
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

# Memory is taken as it is needed, so that its peak is that of the program.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import jax_side, turns
from benchmarks.turns import Case


class Programs:
  """Runs one of several compiled programs, for `turns.time_calls`."""

  def __init__(self, program, arguments):
    self.program, self.arguments, self.out = program, arguments, None

  def run(self):
    """Calls the program."""
    self.out = self.program(*self.arguments)

  def wait(self):
    """Waits for the result."""
    jax.block_until_ready(self.out)


def compare(functions, arguments, rounds=7, least_seconds=0.05):
  """Returns {name: median seconds, or the error}, measured in turns."""
  found, ready = {}, {}
  for name, function in functions.items():
    try:
      program = jax.jit(function).lower(*arguments).compile()
      ready[name] = Programs(program, arguments)
      turns.time_calls(ready[name], 1)
    except Exception as error:  # a library may not have the shape
      ready.pop(name, None)
      found[name] = f'{type(error).__name__}: {str(error).splitlines()[0]}'
  times = {name: [] for name in ready}
  calls = {}
  for name, side in ready.items():
    once = turns.time_calls(side, 1)[0]
    calls[name] = max(1, round(least_seconds / once))
  for i in range(rounds):
    for name in list(ready)[:: 1 if i % 2 else -1]:
      times[name].append(turns.time_calls(ready[name], calls[name])[0])
  return found | {n: turns.spread(t)['median'] for n, t in times.items()}


def with_gradient(function):
  """Returns the function and all of its gradients, of the sum of squares."""

  def loss(*arguments):
    return jnp.sum(function(*arguments).astype(jnp.float32) ** 2)

  return lambda *a: jax.grad(loss, argnums=tuple(range(len(a))))(*a)


def attention(smoke):
  """Yields flash attention (cuDNN) against XLA's, forward and backward.

  Sizes of ADM-64 at 32x32 and 16x16, and DDPM's one head at 16x16.
  """
  sizes = {
    'adm 32x32': (64, 1024, 6, 64),
    'adm 16x16': (64, 256, 9, 64),
    'ddpm 16x16': (128, 256, 1, 256),
  }
  if smoke:
    sizes = {'smoke': (2, 16, 2, 8)}
  for name, shape in sizes.items():
    q = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    functions = {}
    for implementation in ('xla', 'cudnn'):
      attend: object = functools.partial(
        jax.nn.dot_product_attention, implementation=implementation
      )
      functions[implementation] = attend
      functions[f'{implementation}, gradient'] = with_gradient(attend)
    yield name, compare(functions, (q, q, q))


def attention_in_steps(smoke):
  """Yields the seconds of ADM's training step with both."""
  network, batch = ('smoke', 2) if smoke else ('adm', 64)
  plain = jax.nn.dot_product_attention
  for name in ('xla', 'cudnn'):
    attend = functools.partial(plain, implementation=name)
    try:
      with mock.patch.object(jax.nn, 'dot_product_attention', attend):
        side = jax_side.Side(Case(network, batch, 'bfloat16'))
        side.prepare('train')
      times = [turns.time_calls(side, 2)[0] for _ in range(4)][1:]
      yield name, turns.spread(times)['median']
    except Exception as error:
      yield name, f'{type(error).__name__}: {str(error).splitlines()[0]}'


def layouts(smoke):
  """Yields 3x3 convolutions in both layouts, forward and backward, bf16."""
  sizes = [(256, 32, 128), (256, 16, 256), (128, 64, 192)]
  for batch, side, channels in [(2, 8, 8)] if smoke else sizes:
    key = jax.random.key(0)
    x = jax.random.normal(key, (batch, side, side, channels), jnp.bfloat16)
    k = jax.random.normal(key, (3, 3, channels, channels), jnp.bfloat16)

    def conv(x, kernel, numbers):
      return lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
      )

    nhwc = functools.partial(conv, numbers=('NHWC', 'HWIO', 'NHWC'))
    nchw = functools.partial(conv, numbers=('NCHW', 'OIHW', 'NCHW'))
    name = f'{batch} of {side}x{side}x{channels}'
    yield (
      name,
      {
        'flop': 18 * x.size * channels,
        'NHWC': compare(
          {'forward': nhwc, 'gradient': with_gradient(nhwc)}, (x, k)
        ),
        'NCHW': compare(
          {'forward': nchw, 'gradient': with_gradient(nchw)},
          (x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1)),
        ),
      },
    )


def memory(smoke):
  """Yields bytes and seconds of a training step, with remat and without."""
  network, batch = ('smoke', 2) if smoke else ('adm', 64)
  for remat in (True, False):  # the smaller first: the peak is of the process
    case = Case(network, batch, 'bfloat16', remat=remat)
    name = 'remat' if remat else 'all stored'
    try:
      side = jax_side.Side(case)
      info = side.prepare('train')
      times = [turns.time_calls(side, 2)[0] for _ in range(4)][1:]
      yield (
        name,
        {
          'temporary_bytes': info['temporary_bytes'],
          'peak_bytes': side.peak(),
          'seconds': turns.spread(times)['median'],
        },
      )
    except Exception as error:
      yield name, f'{type(error).__name__}: {str(error).splitlines()[0]}'


def profile(smoke):
  """Yields the ten kinds of operations of a step that take most of the time.

  DDPM's network; each with milliseconds, share and count. On a GPU they are its
  kernels.
  """
  network, batch = ('smoke', 2) if smoke else ('ddpm', 256)
  side = jax_side.Side(Case(network, batch, 'bfloat16'))
  side.prepare('train')
  turns.time_calls(side, 2)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      turns.time_calls(side, 1)
    files = glob.glob(f'{folder}/**/*.xplane.pb', recursive=True)
    spent, count = operations(files[0])
  total = sum(spent.values())
  yield 'total_ms', total / 1e6
  for name, ns in spent.most_common(10):
    yield name, {'ms': ns / 1e6, 'share': ns / total, 'count': count[name]}


def operations(path):
  """Returns (nanoseconds, count) of the operations of a trace, by their kind.

  Those with the name of an HLO operation; numbers at the end are dropped.
  """
  spent, count = collections.Counter(), collections.Counter()
  trace = jax.profiler.ProfileData.from_file(path)
  planes = [p for p in trace.planes if p.name.startswith('/device')]
  for plane in planes or trace.planes:
    for line in plane.lines:
      for event in line.events:
        if not dict(event.stats).get('hlo_op'):
          continue
        kind = re.sub(r'[.\d]+$', '', str(event.name))
        spent[kind] += event.duration_ns
        count[kind] += 1
  return spent, count


PARTS = {
  f.__name__: f
  for f in (attention, attention_in_steps, layouts, memory, profile)
}


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

"""Time by operation of a program of ours, from JAX's profiler."""

import collections
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.turns import Case, time_calls


def measure(case: Case, task: str, calls: int = 3) -> str:
  """Returns the table of a task's operations; JAX must not be in use yet."""
  # The kernels of a command buffer (a CUDA graph) would be recorded as one.
  flags = os.environ.get('XLA_FLAGS', ''), '--xla_gpu_enable_command_buffer='
  os.environ['XLA_FLAGS'] = ' '.join(flags)
  from benchmarks.jax_side import Side, jax

  side = Side(case)
  side.prepare(task)
  time_calls(side, calls)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      time_calls(side, calls)
    file = str(next(Path(folder).rglob('*.xplane.pb')))
    profile = jax.profiler.ProfileData.from_file(file)
  return table(profile, side.program.as_text(), calls)


def table(profile: Any, program: str, calls: int, most: int = 40) -> str:
  """Returns the `most` longest operations, their kernels and their sources.

  program: the HLO that ran `calls` times. Times are of one call, on a GPU
  the times of the kernels and copies of its streams.
  """
  sources = dict(re.findall(r'([\w.-]+) = .*?op_name="([^"]*)"', program))
  planes = list(profile.planes)
  gpus = [plane for plane in planes if 'GPU' in plane.name]
  ns, launches = collections.Counter(), collections.Counter()
  for line in (line for plane in gpus or planes for line in plane.lines):
    for event in line.events:
      name = dict(event.stats).get('hlo_op')
      if line.name.startswith('Stream') if gpus else name:
        row = name or event.name, event.name
        ns[row] += event.duration_ns
        launches[row] += 1
  all_ns = ns.total() or 1
  rows = [(ns.total(), launches.total(), f'all {len(ns)} operations')]
  for (name, kernel), t in ns.most_common(most):
    what = f'{name:36.36} {kernel:36.36} {sources.get(name, "")[-70:]}'
    rows.append((t, launches[name, kernel], what))
  return '\n'.join(
    f'{t / calls / 1e6:9.3f} ms {t / all_ns:6.1%} x{n / calls:<5.0f} {what}' for t, n, what in rows
  )

"""Times programs in turns, each in its own process.

A machine that changes speed then favours none of them, none holds another's
memory, and the rest go on if one fails. Both wall-clock and processor times are
taken, because a busy machine changes the former more.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.runtime import start_up


class Failed(Exception):
  """A program raised an error in its process; the message is its last line."""


class Case(NamedTuple):
  """Holds what is computed: network, batch, type and number of steps."""

  network: str  # a name of `cases.NETWORKS`
  batch: int
  dtype: str = 'float32'
  ddim_steps: int = 50
  remat: bool = False
  compiled: bool = False  # torch.compile, for torch only
  memory: float = 0.0  # the share of a GPU's that a side may take; 0: no limit


class Worker:
  """Runs a module's `Side(case)` in a process of its own.

  `open` makes the side of a case. Methods of the side are called by name.
  `ready` and `seconds` call its `prepare(task)`, `run()` and `wait()`.
  """

  def __init__(self, module: str):
    context = multiprocessing.get_context('spawn')
    self._connection, there = context.Pipe()
    self._process = context.Process(target=_serve, args=(there, module), daemon=True)
    self._process.start()
    there.close()

  def call(self, name: str, *args: Any) -> Any:
    """Returns the result of a call in the process; raises `Failed`."""
    try:
      self._connection.send((name, args))
      good, result = self._connection.recv()
    except (EOFError, OSError) as error:
      self._process.join()
      code = self._process.exitcode
      raise Failed(f'its process ended with exit code {code}') from error
    if not good:
      raise Failed(result)
    return result

  def close(self) -> None:
    """Ends the process."""
    self._connection.close()
    self._process.join(10)
    if self._process.is_alive():
      self._process.kill()

  def signal(self, number: int) -> None:
    """Sends a signal to the process."""
    if self._process.pid is not None and self._process.is_alive():
      os.kill(self._process.pid, number)

  def kill(self) -> None:
    """Ends the process at once, also in a call or stopped."""
    self._process.kill()
    self._process.join()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


@contextlib.contextmanager
def stopped(workers: list[Worker]) -> Iterator[None]:
  """Stops processes at once, and lets them go on at the end."""
  try:
    for worker in workers:
      worker.signal(signal.SIGSTOP)
    time.sleep(1.0 if workers else 0.0)  # for kernels that wait on a GPU
    yield
  finally:
    for worker in workers:
      worker.signal(signal.SIGCONT)


def _serve(connection, module):
  if sys.platform == 'linux':  # else it may outlive a killed parent: stopped
    pr_set_pdeathsig = 1  # of prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
  start_up.keep_freed_memory()  # as our command line does; it helps both sides
  side, calls = None, {'ready': _ready, 'seconds': time_calls}
  while True:
    try:
      name, args = connection.recv()
    except EOFError:
      return
    try:
      if name == 'open':
        side, result = importlib.import_module(module).Side(*args), (True, None)
      elif name in calls:
        result = True, calls[name](side, *args)
      else:
        result = True, getattr(side, name)(*args)
    except Exception as error:
      traceback.print_exc()
      line = (str(error).strip().splitlines() or [''])[0][:300]
      result = False, f'{type(error).__name__}: {line}'
    connection.send(result)


def _ready(side, task):
  # Compiles a task and calls it twice: the first call may compile still.
  start = time.perf_counter()
  info = side.prepare(task) or {}
  reset_peak()
  side.run()
  side.wait()
  info['compile_seconds'] = time.perf_counter() - start
  info['first_seconds'] = time_calls(side, 1)[0]
  return info


def time_calls(side: Any, calls: int) -> tuple[float, float]:
  """Returns (wall, processor) seconds per call of side.run(), at its end."""
  wall, used = time.perf_counter(), time.process_time()
  for _ in range(calls):
    side.run()
  side.wait()
  wall, used = time.perf_counter() - wall, time.process_time() - used
  return wall / calls, used / calls


def curve(advance: Any, batches: Any, warm: int = 5) -> tuple[list, tuple]:
  """Returns the loss of each batch, and (wall, processor) seconds a step.

  advance: batch -> loss, after a step. The first `warm` steps are not timed.
  """
  losses = [advance(batch) for batch in batches[:warm]]
  float(losses[-1])  # waits
  wall, used = time.perf_counter(), time.process_time()
  for batch in batches[warm:]:
    losses.append(advance(batch))
  float(losses[-1])
  wall, used = time.perf_counter() - wall, time.process_time() - used
  steps = len(batches) - warm
  return losses, (wall / steps, used / steps)


def in_turns(
  workers: dict[str, Worker], rounds: int, least_seconds: float
) -> dict[str, list[tuple[float, float]]]:
  """Returns the (wall, processor) seconds per call of `rounds` rounds.

  Every worker is ready. The order changes from round to round, and each
  measurement has as many calls as take about least_seconds.
  """
  calls = {
    name: max(1, round(least_seconds / worker.call('seconds', 1)[0]))
    for name, worker in workers.items()
  }
  times = {name: [] for name in workers}
  for i in range(rounds):
    for name in list(workers)[:: 1 if i % 2 else -1]:
      times[name].append(workers[name].call('seconds', calls[name]))
  return times


def spread(values: list[float]) -> dict[str, float]:
  """Returns the median of values and their quartiles."""
  values = sorted(values)
  low = high = values[0]
  if len(values) > 1:
    low, _, high = statistics.quantiles(values, n=4, method='inclusive')
  return {'median': statistics.median(values), 'low': low, 'high': high}


def ratios(over: list, under: list, part: int = 0) -> list[float]:
  """Returns over / under of every pair of times; part 1: of the processors'."""
  return [a[part] / b[part] for a, b in zip(over, under, strict=True)]


def reset_peak() -> None:
  """Forgets the peak of this process's memory, where Linux allows that."""
  try:
    Path('/proc/self/clear_refs').write_text('5')
  except OSError:
    pass


def peak_bytes() -> int:
  """Returns the peak of this process's memory since `reset_peak`."""
  for line in Path('/proc/self/status').read_text().splitlines():
    if line.startswith('VmHWM:'):
      return 1024 * int(line.split()[1])
  return 0

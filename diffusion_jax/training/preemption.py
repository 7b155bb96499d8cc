"""Stops a training at SIGTERM, which schedulers send before preemption."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields stop(number) -> whether to save and stop.

  All processes call it before each dispatch of steps, with 0, 1, 2, ...: it
  becomes True at the same number in all of them, even if only one got the
  signal. Later signals are ignored, so that a running save is completed.
  """
  if jax.process_count() > 1:  # jax.distributed handles the signal.
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda number: False  # Only the main thread may handle signals.
    return
  received = []
  before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
  try:
    yield lambda number: bool(received)
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if received else before)

"""Stops a training at SIGTERM, which schedulers send, and at Ctrl-C."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

SIGTERM, CTRL_C = 'SIGTERM', 'Ctrl-C'
_NOTE = b'\nstops after this step and saves; Ctrl-C again ends at once\n'


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], str]]:
  """Yields stop(number) -> why to save and stop: SIGTERM, CTRL_C or ''.

  All processes call it before each dispatch of steps, with 0, 1, 2, ...: all
  stop at the same number, even if only one got SIGTERM. Later SIGTERMs are
  ignored, so that a running save is completed; a second Ctrl-C ends the
  process, as does Ctrl-C before number 0 or with several processes.
  """
  if jax.process_count() > 1:  # jax.distributed handles SIGTERM.
    reached = multihost_utils.reached_preemption_sync_point
    yield lambda number: SIGTERM if reached(number) else ''
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda number: ''  # Only the main thread may handle signals.
    return
  received = []

  def interrupt(*_):
    received.append(CTRL_C)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(2, _NOTE)  # print may fail in a handler

  def stop(number):
    if not number and interruptible:  # Before, there is nothing to save.
      signal.signal(signal.SIGINT, interrupt)
    return received[0] if received else ''

  before = signal.signal(signal.SIGTERM, lambda *_: received.append(SIGTERM))
  interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
  try:
    yield stop
  finally:
    ignored = SIGTERM in received
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else before)
    if interruptible:
      signal.signal(signal.SIGINT, signal.default_int_handler)

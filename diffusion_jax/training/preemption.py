"""Stops a training at SIGTERM, which schedulers send, and at Ctrl-C.

SIGHUP and SIGUSR1 become SIGTERM: of a lost terminal, and of schedulers.
"""

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from diffusion_jax.errors import Preempted

SIGTERM, CTRL_C = 'SIGTERM', 'Ctrl-C'
_AS_SIGTERM = signal.SIGHUP, signal.SIGUSR1
_NOTES: dict[tuple[int, bool], str] = {
  (signal.SIGTERM, False): 'SIGTERM: ends when the present work, such as a compilation, returns',
  (signal.SIGTERM, True): 'SIGTERM: stops after this step and saves',
  (signal.SIGINT, False): 'Ctrl-C: ends when the present work, such as a '
  'compilation, returns; Ctrl-C again ends at once',
  (signal.SIGINT, True): 'stops after this step and saves; Ctrl-C again ends at once',
}


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], str]]:
  """Yields stop(number) -> why to save and stop: SIGTERM, CTRL_C or ''.

  All processes call it before each dispatch of steps, with 0, 1, 2, ...: all
  stop at the same number, even if only one got SIGTERM. Later SIGTERMs are
  ignored, so that a running save is completed; a second Ctrl-C ends the
  process. Before number 0 SIGTERM raises Preempted and Ctrl-C
  KeyboardInterrupt, as it always does with several processes.
  """
  main = threading.current_thread() is threading.main_thread()
  for also in _AS_SIGTERM if main else ():
    if signal.getsignal(also) is signal.SIG_DFL:  # nohup ignores SIGHUP
      signal.signal(also, _terminate)
  if jax.process_count() > 1:  # jax.distributed handles SIGTERM.
    reached = multihost_utils.reached_preemption_sync_point
    yield lambda number: SIGTERM if reached(number) else ''
    return
  if not main:
    yield lambda number: ''  # Only the main thread may handle signals.
    return
  received, begun = [], threading.Event()

  def terminate(*_):
    received.append(SIGTERM)
    if not begun.is_set() and len(received) == 1:
      raise Preempted(
        'stopped by SIGTERM before the first step, nothing to save yet; the same command continues'
      )

  def interrupt(*_):
    received.append(CTRL_C)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

  def stop(number):
    if not number:  # Before, there is nothing to save.
      begun.set()
      if interruptible:
        signal.signal(signal.SIGINT, interrupt)
    return received[0] if received else ''

  before = signal.signal(signal.SIGTERM, terminate)
  interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
  try:
    with _noted(begun):
      yield stop
  finally:
    ignored = SIGTERM in received
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else before)
    if interruptible:
      signal.signal(signal.SIGINT, signal.default_int_handler)


def _terminate(number, _):
  for stream in (1, 2) if number == signal.SIGHUP else ():
    if stat.S_ISCHR(os.fstat(stream).st_mode):  # the terminal that is gone
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
  os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _noted(begun: threading.Event) -> Iterator[None]:
  # Says at once what a signal does. Python calls its handler only when what
  # the main thread does, such as a compilation, returns.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)

  def note():
    said = set()
    while byte := os.read(reader, 1):
      number = signal.SIGTERM if byte[0] in _AS_SIGTERM else byte[0]
      text = _NOTES.get((number, begun.is_set()))
      if text and number not in said:
        with contextlib.suppress(OSError):  # print may wait for a lock
          os.write(2, f'\n{text}\n'.encode())
      elif number == signal.SIGINT:
        os._exit(130)
      said.add(number)

  thread = threading.Thread(target=note, daemon=True)
  thread.start()
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writer)
    thread.join()
    os.close(reader)

"""Heartbeats of several processes: names the one that was lost, ends all.

Every process but the first writes heartbeats into the key-value store of
`jax.distributed`, and the first reads them. JAX has heartbeats too, but aborts
with a C++ stack trace, and does not notice an exception in one process. Where
JAX does not provide the store, its own heartbeats remain.
"""

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

try:  # the store has no public interface
  from jax._src.distributed import global_state
except ImportError:  # the module or the name is missing
  global_state = None

available = hasattr(global_state, 'client')

FOLDER = 'diffusion_jax/heartbeats'
FAILED, DONE = 'failed', 'done'  # last values: after an error, and without one

_stop = threading.Event()
_threads = []


def start(host: int, timeout: float) -> None:
  """Begins to send heartbeats or, on host 0, to watch them.

  Without the store, or with one of another interface, it starts nothing, and
  host 0 prints that JAX's own heartbeats remain.
  """
  client: Any = getattr(global_state, 'client', None)
  try:  # both calls on every host, so that all of them find the same
    put(client, host, 'begun' if host else DONE)
    client.key_value_dir_get(FOLDER)
  except (AttributeError, TypeError):
    if not host:
      print("heartbeats: JAX's own; a message will not name a lost process")
    return
  thread = threading.Thread(
    target=send if host else watch, args=(client, host, timeout), daemon=True
  )
  thread.start()
  _threads.append(thread)
  # It runs before jax.distributed's own, which waits for all processes.
  atexit.register(stop)


def stop() -> None:
  """Ends what `start` began; a process that sent heartbeats sends DONE."""
  _stop.set()
  for thread in _threads:  # none may run while the interpreter shuts down
    thread.join(timeout=5)


def send(client, host: int, timeout: float) -> None:
  """Sends ten heartbeats per timeout until `stop` is called."""
  count = 0
  while not _stop.is_set():
    put(client, host, str(count))
    count += 1
    _stop.wait(timeout / 10)
  put(client, host, DONE)


def watch(client, _host: int, timeout: float) -> None:
  """Ends this process, and so all, when another one is lost or has failed."""
  monitor = Monitor(time.monotonic)
  while not _stop.wait(min(timeout / 10, 1.0)):
    try:
      values = client.key_value_dir_get(FOLDER)
    except Exception:  # the store is closed: this process is ending
      return
    message = monitor.failure(dict(values), timeout)
    if message:
      print(f'error: {message}: all processes end', file=sys.stderr, flush=True)
      sys.stdout.flush()
      os._exit(1)


class Monitor:
  """Remembers the last heartbeat of each process, and when it came.

  now: returns the time in seconds.
  """

  def __init__(self, now: Callable[[], float]):
    self._now = now
    self._last = {}  # key -> (value, time at which it was new)

  def failure(self, values: dict[str, str], timeout: float) -> str:
    """Returns what is wrong, '' if nothing is.

    values: {'folder/host': 'heartbeat name'}.
    """
    for key, value in values.items():
      host = key.rsplit('/', 1)[-1]
      heartbeat, _, name = value.partition(' ')
      if self._last.get(key, ('',))[0] != value:
        self._last[key] = (value, self._now())
      silent = self._now() - self._last[key][1]
      if heartbeat == FAILED:
        return f'host {host} ({name}) has failed, see its own messages'
      if heartbeat != DONE and silent > timeout:
        return f'host {host} ({name}) is lost, silent for {silent:.0f} s'
    return ''


def report_failure(host: int) -> None:
  """Sends the last value of a process that ends by an error, after `stop`."""
  if _threads:
    put(getattr(global_state, 'client', None), host, FAILED)


def put(client, host: int, heartbeat: str) -> None:
  """Writes a heartbeat with the name of the process; ignores a closed store."""
  name = f'{socket.gethostname()}, process {os.getpid()}'
  try:
    client.key_value_set(
      f'{FOLDER}/{host}', f'{heartbeat} {name}', allow_overwrite=True
    )
  except RuntimeError:  # the first process has ended: JAX ends this one
    pass

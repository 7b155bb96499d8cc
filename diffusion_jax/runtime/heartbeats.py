"""Ends all processes when one is lost, with a message that names it.

Every process except the first writes heartbeats to the key-value store of
`jax.distributed`, and the first process reads them. JAX has heartbeats too, but
it aborts with a C++ stack trace, and it does not notice an exception in one
process. If JAX does not provide the store, only JAX's own heartbeats are used.
"""

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

try:  # The store lacks a public interface.
  from jax._src.distributed import global_state
except ImportError:  # JAX has moved it.
  global_state: Any = None

available = hasattr(global_state, 'client')

FOLDER = 'diffusion_jax/heartbeats'
FAILED, DONE = 'failed', 'done'  # the last value, with and without an error

_stop = threading.Event()
_threads = []


def start(host: int, timeout: float) -> None:
  """Starts to send heartbeats or, on host 0, to watch them.

  Does nothing if the store is missing or has another interface; host 0 then
  prints that only JAX's own heartbeats are used.
  """
  try:  # Every host makes both calls, so that all come to the same result.
    client: Any = global_state.client  # pyright: ignore[reportOptionalMemberAccess]
    put(client, host, 'begun' if host else DONE)
    client.key_value_dir_get(FOLDER)
  except (AttributeError, TypeError):
    if not host:
      print("only JAX's heartbeats work: no message will name a lost process")
    return
  thread = threading.Thread(
    target=send if host else watch, args=(client, host, timeout), daemon=True
  )
  thread.start()
  _threads.append(thread)
  # This runs before jax.distributed's own function, which waits for all.
  atexit.register(stop)


def stop() -> None:
  """Stops sending or watching; a process that sent heartbeats sends DONE."""
  _stop.set()
  for thread in _threads:  # The interpreter must not shut down before them.
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
  """Ends this process, and with it all others, when one is lost or failed."""
  last = {}
  while not _stop.wait(min(timeout / 10, 1.0)):
    try:
      values = client.key_value_dir_get(FOLDER)
    except Exception:  # The store is closed: this process is ending.
      return
    if message := failure(last, dict(values), timeout, time.monotonic()):
      print(f'error: {message}: all processes end', file=sys.stderr, flush=True)
      sys.stdout.flush()
      os._exit(1)


def failure(
  last: dict[str, tuple[str, float]], values: Mapping[str, str], timeout: float, now: float
) -> str:
  """Returns a message about a lost or failed process, or ''.

  values: {'folder/host': 'heartbeat name'}; last: each value and the time at
  which it first appeared, which are updated; now: seconds.
  """
  for key, value in values.items():
    host = key.rsplit('/', 1)[-1]
    heartbeat, _, name = value.partition(' ')
    if last.get(key, ('',))[0] != value:
      last[key] = value, now
    silent = now - last[key][1]
    if heartbeat == FAILED:
      return f'host {host} ({name}) has failed, see its own messages'
    if heartbeat != DONE and silent > timeout:
      return f'host {host} ({name}) is lost, silent for {silent:.0f} s'
  return ''


def report_failure(host: int) -> None:
  """Sends FAILED, to be called after `stop` by a process with an error."""
  if _threads:
    put(global_state.client, host, FAILED)  # pyright: ignore[reportOptionalMemberAccess]


def put(client, host: int, heartbeat: str) -> None:
  """Writes a heartbeat with the process's name; ignores a closed store."""
  name = f'{socket.gethostname()}, process {os.getpid()}'
  try:
    client.key_value_set(f'{FOLDER}/{host}', f'{heartbeat} {name}', allow_overwrite=True)
  except RuntimeError:  # The first process has ended: JAX ends this one.
    pass

"""Which process was lost, said in a line, and the end of all the others.

Every process but the first writes a sign of life into the store of
`jax.distributed`, the first reads them. JAX has heartbeats too, but aborts with
many lines of another language, and takes an exception in one process for life.
"""

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from jax._src import distributed  # the store has no other door

FOLDER = 'diffusion_jax/life'
LEFT, DONE = 'left', 'done'  # last signs: after an error, and in peace

_stop = threading.Event()
_threads = []


def start(host: int, timeout: float) -> None:
  """Begins to give signs of life, or, on host 0, to look for them."""
  client = distributed.global_state.client
  if host:
    put(client, host, 'begun')
  work = watch if host == 0 else beat
  thread = threading.Thread(
    target=work, args=(client, host, timeout), daemon=True
  )
  thread.start()
  _threads.append(thread)
  # runs before jax.distributed's own, which waits for all processes
  atexit.register(stop)


def stop() -> None:
  """Ends what `start` began; a process that beat has left in peace."""
  _stop.set()
  for thread in _threads:  # none may meet the end of the interpreter
    thread.join(timeout=5)


def beat(client, host: int, timeout: float) -> None:
  """Gives signs of life, ten per timeout, until this process ends."""
  count = 0
  while True:
    last = _stop.is_set()
    put(client, host, DONE if last else str(count))
    if last:
      return
    count += 1
    _stop.wait(timeout / 10)


def watch(client, _host: int, timeout: float) -> None:
  """Ends this process, and so all, when another one is lost or has failed."""
  silence = Silence(time.monotonic)
  while not _stop.wait(min(timeout / 10, 1.0)):
    try:
      signs = client.key_value_dir_get(FOLDER)
    except Exception:  # the store is closed: this process is ending
      return
    message = silence.verdict(dict(signs), timeout)
    if message:
      print(f'error: {message}: all processes end', file=sys.stderr, flush=True)
      sys.stdout.flush()
      os._exit(1)


class Silence:
  """What each process said last, and since when; now() is a clock."""

  def __init__(self, now: Callable[[], float]):
    self._now = now
    self._heard = {}  # key -> (sign, when it was new)

  def verdict(self, signs: dict[str, str], timeout: float) -> str:
    """What is wrong, '' if nothing; signs: 'folder/host' -> 'sign name'."""
    for key, value in signs.items():
      host = key.rsplit('/', 1)[-1]
      sign, _, name = value.partition(' ')
      if self._heard.get(key, ('',))[0] != value:
        self._heard[key] = (value, self._now())
      silent = self._now() - self._heard[key][1]
      if sign == LEFT:
        return f'host {host} ({name}) has failed, see its own messages'
      if sign != DONE and silent > timeout:
        return f'host {host} ({name}) is lost, silent for {silent:.0f} s'
    return ''


def say_left(host: int) -> None:
  """The last sign of a process that ends because of an error, after stop."""
  put(distributed.global_state.client, host, LEFT)


def put(client, host, sign):
  """Writes the sign of a host, with its name; a closed store is no matter."""
  name = f'{socket.gethostname()}, process {os.getpid()}'
  try:
    client.key_value_set(
      f'{FOLDER}/{host}', f'{sign} {name}', allow_overwrite=True
    )
  except Exception:  # the first process is gone: JAX ends this one
    pass

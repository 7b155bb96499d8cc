"""Allows one process at a time to write in a folder."""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, SoftFileLease, Timeout

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes, run_folder

# The kernel releases a lock of flock when its process ends, even by a kill. On
# file systems without flock a lease is used. It expires when its process ends;
# on another machine, when the process did not renew it for LEASE seconds.
LEASE = 60.0
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(folder: Path, what: str = '', other: str = '--workdir') -> Iterator[None]:
  """Locks a run folder for training, or the file `what` of a folder.

  Raises UserError with the owner's name, and `other`, the flag that gives
  another place. If several processes work together, the first takes the lock.
  """
  if not processes.is_first():
    if run_folder.twin_of(folder):
      run_folder.share(folder, 'the lock')
    yield
    return
  path = folder / f'{what or "train"}.lock'

  def refuse(owner) -> NoReturn:
    who = f'process {owner}' if owner else 'another process'
    raise UserError(
      f'{folder / what} is being {"written" if what else "trained"} by {who}: '
      f'wait until it ends, or give another {other}'
    ) from None

  # Whoever may write in the folder may take the lock, for every umask.
  mode = 0o600 | folder.stat().st_mode & 0o066
  lock = FileLock(path, mode=mode, fallback_to_soft=False, on_acquired=_sign)
  try:
    lock.acquire(blocking=False)
  except Timeout:
    refuse(_signed(path))
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    lock = _lease(path.with_suffix('.lease'), refuse)
  try:
    with _hold_in_bucket(path, refuse, trains=not what):
      yield
  finally:
    if what:
      path.unlink(missing_ok=True)
    lock.release()


def _lease(path, refuse):
  lease = SoftFileLease(path, lease_duration=LEASE)
  try:
    lease.acquire(timeout=1.2 * LEASE)
  except Timeout:
    owner = lease.owner
    refuse(f'{owner.pid} on {owner.hostname}' if owner else '')
  return lease


@contextlib.contextmanager
def _hold_in_bucket(path, refuse: Callable[[str], NoReturn], trains: bool):
  twin = run_folder.twin_of(path)
  if twin is None:
    yield
    return
  lock = _Object(twin, twin.name_of(path))
  lock.acquire(refuse)
  try:
    with run_folder.beside(lock.renew):
      twin.copy_down(alone=trains)  # The owner before may have written more.
      run_folder.share(path, 'the lock')
      try:
        yield
      finally:
        twin.copy_up()
  finally:
    if not twin.problem:
      lock.release()


class _Object:
  """A lock of the bucket: an object that its owner renews."""

  def __init__(self, twin: run_folder.Twin, name: str):
    self._twin, self._place, self._text = twin, twin.place(name), b''

  def acquire(self, refuse: Callable[[str], NoReturn]) -> None:
    """Creates the object, or takes over one that is not renewed for LEASE."""
    with self._twin.told('locked'):
      while not self._create():
        owner, end = self._read(), time.monotonic() + LEASE
        name = owner.decode(errors='replace').partition(',')[0]
        print(f'waiting up to {LEASE:.0f} s for the lock of process {name}', flush=True)
        while owner and self._read() == owner and time.monotonic() < end:
          time.sleep(LEASE / 20)
        now = self._read()
        if now not in (owner, b''):
          refuse(now.decode(errors='replace').partition(',')[0])
        if now:
          print(f'process {name} does not renew its lock, which is taken over', flush=True)
          self._remove(now)

  def renew(self, ended: threading.Event) -> None:
    """Renews the lock, or stops the writing if another process has taken it."""
    while not ended.wait(LEASE / 4):
      with contextlib.suppress(Exception):  # The copying tells it.
        if self._read() not in (self._text, b''):
          self._twin.problem = f'{self._twin.address} was taken over by another process'
          return
        self._write()

  def release(self) -> None:
    """Removes the object, unless another process has taken it."""
    self._remove(self._text)

  def _remove(self, text):
    with contextlib.suppress(Exception):  # It ends by itself.
      if self._read() == text:
        self._twin.bucket.rm_file(self._place)

  def _create(self):
    try:
      self._write(mode='create')
    except FileExistsError:
      return False
    return True

  def _write(self, **mode):
    text = f'{os.getpid()} on {socket.gethostname()}, {time.ctime()}, {time.monotonic_ns()}'
    self._twin.bucket.pipe_file(self._place, text.encode(), **mode)
    self._text = text.encode()

  def _read(self):
    while True:
      try:
        with self._twin.bucket.open(self._place) as file:  # a stranger's may be large
          return file.read(500)
      except FileNotFoundError:
        return b''
      except OSError as error:  # s3fs: its owner has written it since it was opened
        if error.errno != errno.EBUSY:
          raise


def _sign(descriptor):
  if os.fstat(descriptor).st_nlink > 1:  # A hard link may lead out of the run.
    return
  os.truncate(descriptor, 0)
  os.write(descriptor, f'{os.getpid()} on {socket.gethostname()}\n'.encode())


def _signed(path):
  try:
    return path.read_text().strip()
  except OSError:
    return ''

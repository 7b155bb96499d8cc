"""Allows one process at a time to write in a folder."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, SoftFileLease, Timeout

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes

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
    yield
    return
  path = folder / f'{what or "train"}.lock'

  def refuse(owner) -> NoReturn:
    who = f'process {owner}' if owner else 'another process'
    raise UserError(
      f'{folder / what} is being {"written" if what else "trained"} by {who}: '
      f'wait until it ends, or give another {other}'
    ) from None

  lock = FileLock(path, fallback_to_soft=False, on_acquired=_sign)
  try:
    lock.acquire(blocking=False)
  except Timeout:
    refuse(_signed(path))
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    lock = _lease(path.with_suffix('.lease'), refuse)
  try:
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

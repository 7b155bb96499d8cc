"""Allows one training at a time in a run folder."""

import contextlib
import errno
import os
import socket
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
def hold(workdir: Path):
  """Locks workdir for training; raises UserError with the owner's name.

  If several processes train together, only the first takes the lock.
  """
  if not processes.is_first():
    yield
    return
  path = workdir / 'train.lock'
  lock = FileLock(path, fallback_to_soft=False, on_acquired=_sign)
  try:
    lock.acquire(blocking=False)
  except Timeout:
    _refuse(workdir, _signed(path))
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    lock = _lease(workdir)
  try:
    yield
  finally:
    lock.release()


def _lease(workdir):
  lease = SoftFileLease(workdir / 'train.lease', lease_duration=LEASE)
  try:
    lease.acquire(timeout=1.2 * LEASE)
  except Timeout:
    owner = lease.owner
    _refuse(workdir, f'{owner.pid} on {owner.hostname}' if owner else '')
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


def _refuse(workdir, name) -> NoReturn:
  who = f'process {name}' if name else 'another process'
  raise UserError(
    f'{workdir} is being trained by {who}: wait until it ends, or give '
    'another --workdir'
  ) from None

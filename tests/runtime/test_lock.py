"""Only one process at a time trains a run."""

import contextlib
import errno
import fcntl
from unittest import mock

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import lock
from tests.runtime.test_files import PLANTED, planted


def refused():
  return pytest.raises(UserError, match=r'trained by process \d+ on ')


def test_a_file_system_without_flock(tmp_path, monkeypatch):
  """Without flock a file locks, and a silent process on another machine loses its lease."""
  monkeypatch.setattr(fcntl, 'flock', mock.Mock(side_effect=OSError(errno.ENOSYS, 'not here')))
  monkeypatch.setattr(lock, 'LEASE', 0.4)
  path = tmp_path / 'train.lease'
  with lock.hold(tmp_path):
    record = path.read_bytes()
    with refused(), lock.hold(tmp_path):
      pass
    assert path.read_bytes() == record
  assert not path.exists()
  name = lock.socket.gethostname().encode()
  assert name in record
  path.write_bytes(record.replace(name, b'elsewhere'))
  with lock.hold(tmp_path):
    assert b'elsewhere' not in path.read_bytes()


def test_a_lock_ends_with_its_block(tmp_path):
  for _ in range(2):
    with lock.hold(tmp_path), refused(), lock.hold(tmp_path):
      pass


@pytest.mark.parametrize('how', PLANTED)
def test_a_lock_writes_no_file_elsewhere(how, tmp_path):
  """A hard link is locked; others are refused by the kernel."""
  how_it_ends = contextlib.nullcontext() if how == 'hard link' else pytest.raises(OSError)
  with planted(how, tmp_path, 'train.lock') as run, how_it_ends, lock.hold(run):
    pass


@pytest.mark.parametrize('mode', [0o775, 0o755, 0o700])
def test_a_lock_may_be_taken_by_those_who_may_write_in_its_folder(mode, tmp_path):
  """The rights of the folder become the lock's, for every umask."""
  tmp_path.chmod(mode)
  with lock.hold(tmp_path):
    assert (tmp_path / 'train.lock').stat().st_mode & 0o022 == mode & 0o022

"""The lock of a run folder in one process; see also test_run_folder.py."""

import contextlib
import errno
import fcntl

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import lock
from tests.runtime.test_files import PLANTED


@pytest.fixture
def no_flock(monkeypatch):
  def flock(*args):
    raise OSError(errno.ENOSYS, 'not here')

  monkeypatch.setattr(fcntl, 'flock', flock)
  monkeypatch.setattr(lock, 'LEASE', 0.4)


def test_a_file_system_without_flock(no_flock, tmp_path):
  """It locks too; the lease of a silent process on another machine ends."""
  path = tmp_path / 'train.lease'
  with lock.hold(tmp_path):
    record = path.read_bytes()
    with pytest.raises(UserError, match=r'trained by process \d+ on '):
      with lock.hold(tmp_path):
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
    with lock.hold(tmp_path):
      with pytest.raises(UserError, match=r'trained by process \d+ on '):
        with lock.hold(tmp_path):
          pass


@pytest.mark.parametrize('planted', PLANTED)
def test_a_lock_writes_no_file_elsewhere(planted, tmp_path):
  """A hard link is locked; others are refused by the kernel."""
  mine, run = tmp_path / 'mine', tmp_path / 'run'
  run.mkdir()
  mine.write_text('mine')
  PLANTED[planted](run / 'train.lock', mine)
  with contextlib.ExitStack() as stack:
    if planted != 'hard link':
      stack.enter_context(pytest.raises(OSError))
    with lock.hold(run):
      pass
  assert mine.read_text() == 'mine' and not mine.with_name('none').exists()

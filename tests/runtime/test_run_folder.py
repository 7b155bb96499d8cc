"""The folder of a run: its name in messages, its files, its twin in a bucket, its lock."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from unittest import mock

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import run_folder, twins
from diffusion_jax.runtime.run_folder import RunFolder
from tests.runtime.test_files import PLANTED, planted


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def opened(address):
  """Returns the folder of a run on another machine."""
  run_folder._twins.clear()
  return RunFolder.at(address).path


def test_a_folder_of_this_machine_has_the_words_of_the_user():
  run = RunFolder.at('runs/digits/')
  assert str(run) == 'runs/digits/' and run.path == Path('runs/digits')
  assert run.config == Path('runs/digits/config.json') and run.written


def test_a_run_folder_is_a_path_and_equal_to_others_of_its_path(tmp_path):
  run = RunFolder.at(f'{tmp_path}/', written=False)
  assert run / 'teacher.json' == tmp_path / 'teacher.json' and Path(run) == tmp_path
  assert os.path.isdir(run) and not os.path.exists(run / 'teacher.json')
  assert run == RunFolder.at(tmp_path) != RunFolder.at(tmp_path / 'other')
  assert {run} == {RunFolder.at(tmp_path)} and RunFolder.at(RunFolder.at(tmp_path)).written


def test_a_run_in_a_bucket_is_named_by_its_address(address):
  """The files of a run in a bucket are in its twin, by whose path later doors find the same run."""
  run = RunFolder.at(address)
  assert str(run) == address and run.path.is_dir() and address not in str(run.path)
  assert RunFolder.at(run.path) == run
  assert str(run.autoencoder) == f'{address}/autoencoder'


def test_a_run_that_is_read_is_not_made(tmp_path):
  assert RunFolder.at(tmp_path).make('samples') == tmp_path / 'samples'
  with pytest.raises(AssertionError, match='is a run that is read'):
    RunFolder.at(tmp_path / 'theirs', written=False).make()
  with pytest.raises(AssertionError, match='is a run that is read'):
    RunFolder.at(tmp_path, written=False).autoencoder.make()
  assert not (tmp_path / 'theirs').exists()


def refused():
  return pytest.raises(UserError, match=r'is being trained by process \d+ on ')


def test_a_file_system_without_flock(tmp_path, monkeypatch):
  """Without flock a file locks, and a silent process on another machine loses its lease."""
  monkeypatch.setattr(fcntl, 'flock', mock.Mock(side_effect=OSError(errno.ENOSYS, 'not here')))
  monkeypatch.setattr(twins, 'LEASE', 0.4)
  path = tmp_path / 'train.lease'
  with run_folder.hold(tmp_path):
    record = path.read_bytes()
    with refused(), run_folder.hold(tmp_path):
      pass
    assert path.read_bytes() == record
  assert not path.exists()
  name = twins.socket.gethostname().encode()
  assert name in record
  path.write_bytes(record.replace(name, b'elsewhere'))
  with run_folder.hold(tmp_path):
    assert b'elsewhere' not in path.read_bytes()


def test_a_lock_ends_with_its_block(tmp_path):
  for _ in range(2):
    with run_folder.hold(tmp_path), refused(), run_folder.hold(tmp_path):
      pass


@pytest.mark.parametrize('how', PLANTED)
def test_a_lock_writes_no_file_elsewhere(how, tmp_path):
  """A hard link is locked; others are refused by the kernel."""
  how_it_ends = contextlib.nullcontext() if how == 'hard link' else pytest.raises(OSError)
  with planted(how, tmp_path, 'train.lock') as run, how_it_ends, run_folder.hold(run):
    pass


@pytest.mark.parametrize('mode', [0o775, 0o755, 0o700])
def test_a_lock_may_be_taken_by_those_who_may_write_in_its_folder(mode, tmp_path):
  """The rights of the folder become the lock's, for every umask."""
  tmp_path.chmod(mode)
  with run_folder.hold(tmp_path):
    assert (tmp_path / 'train.lock').stat().st_mode & 0o022 == mode & 0o022


def test_files_go_up_while_a_program_runs_and_at_its_end(address, capsys):
  run = RunFolder.at(address).path
  with run_folder.copying(run):
    write(run / 'samples/a.png', b'a')
    print(f'wrote {run}/samples/a.png')
    end = time.monotonic() + 60
    while not run_folder.twin_of(run).bucket.exists(f'{address}/samples/a.png'):
      assert time.monotonic() < end
    write(run / 'report.html.12345678.tmp', b'a')
    (run / 'samples/a.png').write_bytes(b'another')
  assert capsys.readouterr().out == f'wrote {address}/samples/a.png\n'
  assert not run.exists()
  files = [path for path in opened(address).rglob('*') if path.is_file()]
  assert [path.read_bytes() for path in files] == [b'another']


def test_one_process_locks_a_path(address, monkeypatch, capsys):
  monkeypatch.setattr(twins, 'LEASE', 6.0)
  run = RunFolder.at(address).path
  with run_folder.hold(run):
    other = opened(address)
    with refused(), run_folder.hold(other):
      pass
  with run_folder.hold(other):
    pass
  twin = run_folder.twin_of(other)
  twin.bucket.pipe_file(twin.place('train.lock'), b'7 on elsewhere, at noon')
  with run_folder.hold(other):
    assert 'process 7 on elsewhere does not renew its lock' in capsys.readouterr().out
    twin.bucket.pipe_file(twin.place('train.lock'), b'8 on elsewhere, at noon')
    end = time.monotonic() + 60
    while not twin.problem:
      assert time.monotonic() < end
    with pytest.raises(OSError, match='was taken over by another process'):
      run_folder.check_copying()
  assert twin.bucket.exists(twin.place('train.lock'))


def test_a_lock_is_read_while_its_owner_writes(address, monkeypatch):
  """An open file of s3fs is lost when the object is written again."""
  run = RunFolder.at(address).path
  twin = run_folder.twin_of(run)
  theirs, ours = (twins.Lock(twin, 'train.lock') for _ in range(2))
  theirs._write()
  monkeypatch.setattr(twins, 'LEASE', 0.0)
  with run_folder.beside(theirs.renew):
    texts = {ours._read() for _ in range(30)}
  assert all(text.startswith(f'{os.getpid()} on '.encode()) for text in texts) and len(texts) > 1
  twin.bucket.pipe_file(twin.place('train.lock'), b'')
  assert ours._read() == b''


def test_only_its_owner_releases_a_lock(address, monkeypatch):
  """Between two looks another process may take the lock over, or release it."""
  monkeypatch.setattr(twins, 'LEASE', 40.0)
  run = RunFolder.at(address).path
  twin = run_folder.twin_of(run)
  place = twin.place('train.lock')
  with run_folder.hold(run):
    twin.bucket.pipe_file(place, b'8 on elsewhere, at noon')
  assert twin.bucket.cat_file(place) == b'8 on elsewhere, at noon'
  texts = iter([b'8, at noon', b'8, at noon', b'', b''])  # read: the owner ends
  monkeypatch.setattr(twins.Lock, '_read', lambda self: next(texts, b''))
  monkeypatch.setattr(twins.time, 'sleep', lambda seconds: twin.bucket.rm_file(place))
  with run_folder.hold(run):
    assert twin.bucket.exists(place)


def test_objects_that_somebody_removes_are_written_again(address):
  """A run that another process trains loses no step to one that samples."""
  run = RunFolder.at(address).path
  twin = run_folder.twin_of(run)
  remove = lambda name: twin.bucket.rm_file(twin.place(name))
  there = lambda name: twin.bucket.exists(twin.place(name))
  for name in ('config.json', 'snapshots/1', 'checkpoints/1/a', 'checkpoints/1/commit_success.txt'):
    twin.bucket.pipe_file(twin.place(name), b'{}')
  run = opened(address)
  with run_folder.copying(run):
    write(run / 'samples/a.png', b'a')
    run_folder.twin_of(run).copy_up()
    for name in ('samples/a.png', 'snapshots/1', 'checkpoints/1/commit_success.txt'):
      remove(name)
  assert there('samples/a.png')
  assert not there('snapshots/1') and not there('checkpoints/1/commit_success.txt')
  run = opened(address)
  with run_folder.copying(run), run_folder.hold(run):
    assert (run / 'config.json').read_bytes() == b'{}'
    remove('config.json')
  assert there('config.json') and not there('train.lock')


def test_a_training_removes_what_a_killed_one_left(address):
  """Only a training removes parts of a checkpoint: another mode may run at the same time."""
  run = RunFolder.at(address).path
  twin = run_folder.twin_of(run)
  part = twin.place('checkpoints/9/params')
  twin.bucket.pipe_file(part, b'a')
  with run_folder.hold(run, 'samples.npz'):
    assert twin.bucket.exists(part) and twin.bucket.exists(twin.place('samples.npz.lock'))
  with pytest.raises(KeyboardInterrupt), run_folder.hold(run):
    assert not twin.bucket.exists(part)
    write(run / 'config.json', b'{}')
    raise KeyboardInterrupt
  assert twin.bucket.cat_file(twin.place('config.json')) == b'{}'
  assert not twin.bucket.exists(twin.place('train.lock'))


def test_a_reader_of_a_bucket_takes_the_newest_when_its_checkpoint_is_removed(address):
  """A training on another machine writes step 2 and removes step 1, whose arrays are not here."""
  run = RunFolder.at(address).path
  twin = run_folder.twin_of(run)

  def put(step):
    for name, size in ('d', 2**17), (twins.DONE, 1):
      twin.bucket.pipe_file(twin.place(f'checkpoints/{step}/{name}'), b'%d' % step * size)

  put(1)
  run, tries = opened(address), []

  def kept():
    return sorted(int(path.name) for path in (run / 'checkpoints').glob('*'))

  def read():
    checkpoint = run / 'checkpoints' / str(kept()[-1])
    if not tries:
      put(2)
      twin.bucket.rm(twin.place('checkpoints/1'), recursive=True)
    tries.append(checkpoint.name)
    run_folder.fetch(checkpoint)
    return (checkpoint / 'd').read_bytes()

  assert run_folder.while_trained(run, kept, read) == b'2' * 2**17 and tries == ['1', '2']


def test_a_bucket_that_cannot_be_written_is_refused(address):
  run = RunFolder.at(address).path
  forbidden = mock.patch.object(
    run_folder.twin_of(run).bucket, 'pipe_file', side_effect=OSError('Forbidden: b/bucket/o')
  )
  refused = pytest.raises(UserError, match='cannot be written: Forbidden')
  with forbidden, refused, run_folder.copying(run):
    pytest.fail('the program begins')


def test_a_folder_is_none_of_a_bucket(tmp_path):
  assert RunFolder.at(tmp_path).path == tmp_path and run_folder.twin_of(tmp_path) is None
  with run_folder.copying(tmp_path):
    run_folder.fetch(tmp_path)
    run_folder.check_copying()
  assert os.listdir(tmp_path) == []

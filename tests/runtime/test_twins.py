"""Twins of runs in buckets, with real servers on this machine."""

import contextlib
import json
import shutil
import sys
from unittest import mock

import pytest

from diffusion_jax.data.buckets import LIBRARIES
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import run_folder, twins
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.twins import DONE, SMALL, Twin
from tests.bucket_server import Amazon, Google
from tests.rows import slow
from tests.runtime.test_run_folder import opened, write

ARRAYS = 'params/d/arrays'


def content_of(step, name):
  return b'%d' % step * (SMALL + 1 if name == ARRAYS else 1)


def write_step(run, step):
  """Writes what a training has at a step, and removes older checkpoints."""
  lines = [json.dumps({'step': n}) + '\n' for n in range(step + 3)]
  write(run / 'metrics.jsonl', ''.join(lines).encode())
  write(run / 'config.json', b'{"a": %d}' % step)
  write(run / f'snapshots/{step}.safetensors', b'average')
  folder = run / 'checkpoints'
  for old in folder.glob('*'):
    if int(old.name) < step - 1:
      shutil.rmtree(old)
  for name in ('SHA256SUMS', ARRAYS, DONE):
    write(folder / str(step) / name, content_of(step, name))


def check_consistent(run, steps):
  """Checks a run that a new machine has copied down; returns its last step."""
  last = max((int(path.name) for path in (run / 'checkpoints').glob('*')), default=-1)
  assert last in steps
  if (run / 'metrics.jsonl').exists():
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert lines[-1]['step'] <= last
  for step in range(last + 1):
    assert (run / f'snapshots/{step}.safetensors').exists()
  if last >= 0:
    checkpoint = run / f'checkpoints/{last}'
    assert not (checkpoint / ARRAYS).exists()
    run_folder.fetch(checkpoint)
    for name in ('SHA256SUMS', ARRAYS, DONE):
      assert (checkpoint / name).read_bytes() == content_of(last, name)
  return last


def files_of(run):
  names = (path.relative_to(run).as_posix() for path in run.rglob('*') if path.is_file())
  return {name: (run / name).read_bytes() for name in names}


# Each request is counted above the client of the bucket; the others are of both.
@pytest.mark.parametrize('server', [Amazon, slow(Google)], indirect=True)
def test_a_copy_that_ends_at_any_request_is_of_one_moment(address):
  """A kill before any request leaves the newest complete checkpoint.

  Readers of all moments have the last one's files in the end.
  """

  class Killed(BaseException):
    pass

  run, allowed, last, readers = opened(address), [], [], []
  twin = run_folder.twin_of(run)
  write_step(run, 0)
  twin.copy_up()
  write_step(run, 1)
  write_step(run, 2)

  def request(action, *args):
    if not allowed:
      raise Killed
    allowed.pop()
    return action(*args)

  with mock.patch.object(twin, '_patiently', request):
    for _ in range(100):
      with contextlib.suppress(Killed):
        twin.copy_up()
      reader = opened(address)
      last.append(check_consistent(reader, (0, 1, 2)))
      readers.append(run_folder.twin_of(reader))
      if allowed:  # Nothing was left to do.
        break
      allowed.append('one')
  assert allowed and len(last) > 10 and not twin.problem
  assert last == sorted(last) and {*last} == {0, 1, 2} and last[-1] == 2
  here = readers[-1].path
  assert [x['step'] for x in read_json_lines(here / 'metrics.jsonl')] == [0, 1, 2]
  assert not (here / 'checkpoints/0').exists()
  for reader in reversed(readers):
    reader.copy_down()
    reader.fetch('checkpoints')
    assert files_of(reader.path) == files_of(here)


def test_a_request_that_fails_is_repeated(address, capsys, monkeypatch):
  """A failure that lasts ends the writing, and the files are kept."""
  run, answers = RunFolder.at(address).path, [OSError('busy'), OSError('busy'), None]
  twin = run_folder.twin_of(run)
  write(run / 'config.json', b'{}')
  with mock.patch.object(twin.bucket, 'pipe_file', side_effect=answers):
    twin.copy_up()
  warned = f'warning: {address} cannot be written: busy: it is tried again\n'
  assert capsys.readouterr().err == 2 * warned and not twin.problem
  monkeypatch.setattr(twins, 'PATIENCE', 0.05)
  kept = rf'{address} cannot be written: full: the files are kept in {run}$'
  with pytest.raises(UserError, match=kept), run_folder.copying(run):
    mock.patch.object(twin.bucket, 'pipe_file', side_effect=OSError('full')).start()
    write(run / 'config.json', b'{"a": 1}')
  mock.patch.stopall()
  assert (run / 'config.json').read_bytes() == b'{"a": 1}'
  shutil.rmtree(run)


def test_a_request_that_is_forbidden_is_not_repeated(address, capsys):
  twin = Twin(address)
  write(twin.path / 'config.json', b'{}')
  with mock.patch.object(twin.bucket, 'pipe_file', side_effect=OSError('Forbidden: object')):
    twin.copy_up()
  assert 'cannot be written: Forbidden' in twin.problem and not capsys.readouterr().err


def test_a_file_that_grows_waits_for_a_new_one(address):
  """A look for new files copies nothing without one."""
  twin = Twin(address)
  write(twin.path / 'metrics.txt', b'1')
  twin.copy_up(if_new=True)
  write(twin.path / 'metrics.txt', b'12')
  twin.copy_up(if_new=True)
  assert twin.bucket.cat_file(twin.place('metrics.txt')) == b'1'
  write(twin.path / 'other.txt', b'')
  twin.copy_up(if_new=True)
  assert twin.bucket.cat_file(twin.place('metrics.txt')) == b'12'


@pytest.mark.parametrize('name', ['../out', 'a/../../out', '/etc/passwd', 'a//b', './a', 'a\nb'])
def test_objects_that_lead_out_of_a_run_are_refused(address, name):
  twin = Twin(address)
  objects = {twin.place(name): {'size': 1, 'etag': 'x'}}
  refused = pytest.raises(UserError, match='has the object .*: remove it')
  with mock.patch.object(twin.bucket, 'find', return_value=objects), refused:
    twin.copy_down()
  assert not [*twin.path.rglob('*')]


def test_an_object_is_no_run(address):
  twin = Twin(address)
  twin.bucket.pipe_file(twin.place('config.json'), b'{}')
  with pytest.raises(UserError, match='config.json is an object of the bucket: give the folder'):
    Twin(f'{address}/config.json').copy_down()


def test_runs_that_are_too_large_are_refused(address, monkeypatch):
  twin = Twin(address)
  objects = {twin.place('a'): {'size': 2**60, 'etag': 'x'}}
  monkeypatch.setattr(twin.bucket, 'find', lambda *args, **options: objects)
  with pytest.raises(UserError, match='has 1,099,511,627,776 MiB to copy down, and .* of room'):
    twin.copy_down()
  monkeypatch.setattr(twins, 'MOST_FILES', 0)
  with pytest.raises(UserError, match='has more than 0 objects: a run has fewer'):
    twin.copy_down()
  assert not [*twin.path.rglob('*')]


def test_what_cannot_be_opened_is_refused_in_one_line(server, monkeypatch):
  missing = f'{server.scheme}://nobody/run'
  for address, message in {
    'az://bucket/run': 'a run is in a folder, or in a bucket, gs:// or s3://',
    f'{server.scheme}://bucket': 'give a folder of a bucket',
    f'{server.scheme}://bucket/../run': 'give a folder of a bucket',
    missing: 'cannot be read: there is no such bucket',
  }.items():
    with pytest.raises(UserError, match=message):
      RunFolder.at(address)
  library, extra = LIBRARIES[server.scheme]
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(
    UserError, match=rf"needs the library {library}: pip install -e '\.\[{extra}\]'"
  ):
    RunFolder.at(missing)

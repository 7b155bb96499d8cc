"""Runs in buckets, with real servers on this machine."""

import contextlib
import json
import os
import shutil
import time
from unittest import mock

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import buckets, lock
from tests.bucket_server import Amazon, Google, running

ARRAYS = 'params/d/arrays'


@pytest.fixture(scope='module', params=[Google, Amazon])
def server(request, tmp_path_factory):
  with running(request.param, tmp_path_factory.mktemp('server')) as server:
    yield server


@pytest.fixture
def address(server, request, monkeypatch):
  monkeypatch.setattr(buckets, '_twins', {})
  monkeypatch.setattr(buckets, 'POLL', 0.01)
  return f'{server.scheme}://bucket/{abs(hash(request.node.name))}/run'


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def content_of(step, name):
  return b'%d' % step * (buckets.SMALL + 1 if name == ARRAYS else 1)


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
  for name in ('SHA256SUMS', ARRAYS, buckets.DONE):
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
    buckets.fetch(checkpoint)
    for name in ('SHA256SUMS', ARRAYS, buckets.DONE):
      assert (checkpoint / name).read_bytes() == content_of(last, name)
  return last


def opened(address):
  """Returns the folder of a run on another machine."""
  buckets._twins.clear()
  return buckets.folder(address)


def test_a_copy_that_ends_at_any_request_is_of_one_moment(address):
  """A kill before any request leaves the newest complete checkpoint."""

  class Killed(BaseException):
    pass

  last = []
  for requests in range(100):
    here = f'{address}{requests}'
    run, count = opened(here), iter(range(requests))
    twin = buckets.twin_of(run)
    write_step(run, 0)
    twin.copy_up()
    write_step(run, 1)
    write_step(run, 2)

    def request(action, *args, count=count):
      if next(count, None) is None:
        raise Killed
      return action(*args)

    with mock.patch.object(twin, '_patiently', request), contextlib.suppress(Killed):
      twin.copy_up()
      assert not twin.problem
      break
    last.append(check_consistent(opened(here), (0, 1, 2)))
  assert last == sorted(last) and {*last} == {0, 1, 2}
  assert check_consistent(opened(here), (2,)) == 2
  lines = (buckets.folder(here) / 'metrics.jsonl').read_text()
  assert lines.endswith('{"step": 2}\n')
  assert not (buckets.folder(here) / 'checkpoints/0').exists()


def test_files_go_up_while_a_program_runs_and_at_its_end(address, capsys):
  run = buckets.folder(address)
  with buckets.copying(run):
    write(run / 'samples/a.png', b'a')
    print(f'wrote {run}/samples/a.png')
    end = time.monotonic() + 60
    while not buckets.twin_of(run).bucket.exists(f'{address}/samples/a.png'):
      assert time.monotonic() < end
    write(run / 'report.html.12345678.tmp', b'a')
    (run / 'samples/a.png').write_bytes(b'another')
  assert capsys.readouterr().out == f'wrote {address}/samples/a.png\n'
  assert not run.exists()
  files = [path for path in opened(address).rglob('*') if path.is_file()]
  assert [path.read_bytes() for path in files] == [b'another']


def test_one_process_locks_a_path(address, monkeypatch, capsys):
  monkeypatch.setattr(lock, 'LEASE', 2.0)
  run = buckets.folder(address)
  with lock.hold(run):
    other = opened(address)
    with pytest.raises(UserError, match=r'is being trained by process \d+ on '), lock.hold(other):
      pass
  with lock.hold(other):
    pass
  twin = buckets.twin_of(other)
  twin.bucket.pipe_file(twin.place('train.lock'), b'7 on elsewhere, at noon')
  with lock.hold(other):
    assert 'of 7 on elsewhere' in capsys.readouterr().out
    twin.bucket.pipe_file(twin.place('train.lock'), b'8 on elsewhere, at noon')
    end = time.monotonic() + 60
    while not twin.problem:
      assert time.monotonic() < end
    with pytest.raises(OSError, match='was taken over by another process'):
      buckets.check()
  assert twin.bucket.exists(twin.place('train.lock'))


def test_a_request_that_fails_is_repeated(address, capsys, monkeypatch):
  """A failure that lasts ends the writing, and the files are kept."""
  run, answers = buckets.folder(address), [OSError('busy'), OSError('busy'), None]
  twin = buckets.twin_of(run)
  write(run / 'config.json', b'{}')
  with mock.patch.object(twin.bucket, 'pipe_file', side_effect=answers):
    twin.copy_up()
  warned = f'warning: {address} cannot be written: busy: it is tried again\n'
  assert capsys.readouterr().err == 2 * warned and not twin.problem
  monkeypatch.setattr(buckets, 'PATIENCE', 0.05)
  kept = rf'{address} cannot be written: full: the files are kept in {run}$'
  with pytest.raises(UserError, match=kept), buckets.copying(run):
    mock.patch.object(twin.bucket, 'pipe_file', side_effect=OSError('full')).start()
    write(run / 'config.json', b'{"a": 1}')
  mock.patch.stopall()
  assert (run / 'config.json').read_bytes() == b'{"a": 1}'
  shutil.rmtree(run)


@pytest.mark.parametrize('name', ['../out', 'a/../../out', '/etc/passwd', 'a//b', './a', 'a\nb'])
def test_objects_that_lead_out_of_a_run_are_refused(address, name):
  twin = buckets.Twin(address)
  objects = {twin.place(name): {'size': 1, 'etag': 'x'}}
  refused = pytest.raises(UserError, match='has the object .*: remove it')
  with mock.patch.object(twin.bucket, 'find', return_value=objects), refused:
    twin.copy_down()
  assert not [*twin.path.rglob('*')]


def test_runs_that_are_too_large_are_refused(address, monkeypatch):
  twin = buckets.Twin(address)
  objects = {twin.place('a'): {'size': 2**60, 'etag': 'x'}}
  monkeypatch.setattr(twin.bucket, 'find', lambda *args, **options: objects)
  with pytest.raises(UserError, match='has 1,099,511,627,776 MiB to copy down, and .* of room'):
    twin.copy_down()
  monkeypatch.setattr(buckets, 'MOST_FILES', 0)
  with pytest.raises(UserError, match='has more than 0 objects: it is no run'):
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
      buckets.folder(address)
  library, extra = buckets.LIBRARIES[server.scheme]
  monkeypatch.setitem(__import__('sys').modules, library, None)
  with pytest.raises(UserError, match=rf"needs {library}: pip install 'diffusion_jax\[{extra}\]'"):
    buckets.folder(missing)


def test_a_bucket_that_cannot_be_written_is_refused(address):
  run = buckets.folder(address)
  forbidden = mock.patch.object(
    buckets.twin_of(run).bucket, 'pipe_file', side_effect=OSError('Forbidden: b/bucket/o')
  )
  refused = pytest.raises(UserError, match='cannot be written: Forbidden')
  with forbidden, refused, buckets.copying(run):
    pytest.fail('the program begins')


def test_a_folder_is_none_of_a_bucket(tmp_path):
  assert buckets.folder(tmp_path) == tmp_path and buckets.twin_of(tmp_path) is None
  with buckets.copying(tmp_path):
    buckets.fetch(tmp_path)
    buckets.check()
  assert os.listdir(tmp_path) == []

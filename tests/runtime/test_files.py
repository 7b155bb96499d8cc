"""Files of a run whose folder a stranger has made."""

import contextlib
import errno
import fcntl
import json
import os
import pwd
from unittest import mock

import jax
import numpy as np
import pytest

from diffusion_jax.app.config import own
from diffusion_jax.atomic_files import draft, draft_folder, write_figure
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.interop.files import write_safetensors
from diffusion_jax.runtime import compiling, files, lock, sessions
from tests.refusals import one_line

PICTURE = np.zeros((4, 4, 3), np.uint8)


class Figure:
  """Stands for matplotlib's, which takes a second."""

  @staticmethod
  def savefig(file, format):
    file.write(format.encode())


# Everything that writes a file of a run by its path.
WRITERS = {
  'text': lambda path: files.write_text(path, 'new'),
  'json': lambda path: files.write_json(path, {'new': 1}),
  'npz': lambda path: files.write_npz(path, {'new': PICTURE}),
  'png': lambda path: images.write_png(path, PICTURE),
  'gif': lambda path: images.write_gif(path, [PICTURE, PICTURE]),
  'plot': lambda path: write_figure(path, Figure),
  'safetensors': lambda path: write_safetensors(path, {'new': PICTURE}),
}
PLANTED = {
  'link': lambda path, mine: path.symlink_to(mine),
  'dangling': lambda path, mine: path.symlink_to(mine.with_name('none')),
  'hard link': lambda path, mine: path.hardlink_to(mine),
  'pipe': lambda path, mine: os.mkfifo(path),
  'device': lambda path, mine: path.symlink_to('/dev/zero'),
  'process': lambda path, mine: path.symlink_to('/proc/self/pagemap'),
}


@contextlib.contextmanager
def planted(how, folder, *names, text='mine'):
  """Yields a run with planted files, through which nothing is changed."""
  mine, run = folder / 'mine', folder / 'run'
  mine.write_text(text)
  for name in names:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    PLANTED[how](run / name, mine)
  yield run
  assert mine.read_text() == text and not mine.with_name('none').exists()


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'link').symlink_to('empty')
  for name in ('above/new', 'link'):
    with pytest.raises(ZeroDivisionError), draft_folder(tmp_path / name) as new:
      (new / 'half').touch()
      raise ZeroDivisionError
    with draft_folder(tmp_path / name) as new:
      (new / 'whole').touch()
      assert not (tmp_path / name / 'whole').exists()
    assert [x.name for x in (tmp_path / name).iterdir()] == ['whole']
  assert not [*tmp_path.rglob('*.tmp')]
  with pytest.raises(OSError), draft_folder(tmp_path / 'link'):
    pass  # It is not empty: nothing is replaced.
  assert (tmp_path / 'empty' / 'whole').exists()


@pytest.mark.parametrize('how', PLANTED)
@pytest.mark.parametrize('write', WRITERS)
def test_nothing_is_written_through_a_link(write, how, tmp_path):
  names = 'file', 'file.tmp', 'file.draft.tmp'
  with planted(how, tmp_path, *names) as run:
    WRITERS[write](run / 'file')
  path = run / 'file'
  assert path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1
  assert path.stat().st_size and len([*run.iterdir()]) == 3
  umask = (tmp_path / 'mine').stat().st_mode
  assert path.stat().st_mode == umask


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
  path = tmp_path / 'file'
  path.write_text('old')
  with pytest.raises(KeyError):
    with draft(path) as file:
      file.write(b'half')
      raise KeyError
  assert path.read_text() == 'old' and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
  'below', ['link', 'link/a', 'a/link', '../run/a', 'a/../../out', 'x=/../..', '/OUT']
)
def test_a_folder_below_a_run_is_in_the_run(below, tmp_path):
  """A part of its path may come from a stored config."""
  out, run = tmp_path / 'out', tmp_path / 'run'
  out.mkdir()
  (run / 'a').mkdir(parents=True)
  for link in ('link', 'a/link'):
    (run / link).symlink_to(out)
  with pytest.raises(UserError, match='nothing is written in .* leads out of'):
    files.make_folder(run, below.replace('/OUT', str(out)))
  assert not [*out.iterdir()]


def test_a_run_folder_may_be_a_link(tmp_path):
  (tmp_path / 'large').mkdir()
  (tmp_path / 'run').symlink_to(tmp_path / 'large')
  folder = files.make_folder(tmp_path / 'run', 'samples/more')
  assert folder == tmp_path / 'run' / 'samples' / 'more'
  assert (tmp_path / 'large' / 'samples' / 'more').is_dir()


@pytest.mark.parametrize('how', PLANTED)
def test_what_a_library_may_open_is_a_file_or_a_folder(how, tmp_path):
  refused = pytest.raises(UserError, match='params/file is a link, a pipe or a')
  if how in ('link', 'hard link'):  # as a folder of downloads has them
    refused = contextlib.nullcontext()
  with planted(how, tmp_path, '4/params/file') as run, refused:
    files.check_files(run)


@pytest.mark.parametrize('name', ['run', 'run/4/params'])
def test_a_library_opens_no_folder_elsewhere(name, tmp_path):
  (tmp_path / 'out' / '4' / 'params').mkdir(parents=True)
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(tmp_path / 'out')
  with pytest.raises(UserError, match=f'{name} is a link'):
    files.check_files(tmp_path / 'run')
  files.check_files(tmp_path / 'missing')


def sparse(path):
  with path.open('wb') as file:
    file.truncate(2**40)


DAMAGED = {
  'empty': lambda path: path.touch(),
  'deep': lambda path: path.write_text('[' * 200_000),
  'rather deep': lambda path: path.write_text('{"a":' * 300 + '1' + '}' * 300),
  'a list': lambda path: path.write_text('[1]'),
  'binary': lambda path: path.write_bytes(bytes(range(256))),
  'long number': lambda path: path.write_text('{"a": 1' + '0' * 5000 + '}'),
  'large': sparse,
  'folder': lambda path: path.mkdir(),
  **{
    name: lambda path, plant=plant: plant(path, path.with_name('mine'))
    for name, plant in PLANTED.items()
    if name in ('pipe', 'device', 'process')
  },
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_file_of_json_is_one_line(name, tmp_path):
  path = tmp_path / 'config.json'
  DAMAGED[name](path)
  if name == 'long number':
    assert files.read_json(path) == {'a': np.inf}
    return
  with one_line('config.json cannot be read: ', error=UserError):
    files.read_json(path)
  if name == 'large':
    with pytest.raises(OSError, match='more than 256 MiB'):
      list(files.read_json_lines(path))
  else:
    assert list(files.read_json_lines(path)) == []


def test_json_of_64_bits_and_some_depth_is_exact(tmp_path):
  content = {'step': 2**62, 'seed': -(2**62), 'x': [[[{'y': [1e300, None]}]]]}
  files.write_json(tmp_path / 'a.json', content)
  assert files.read_json(tmp_path / 'a.json') == content
  assert files.parse_json(b'3') == 3
  assert files.parse_json('1' + '0' * 398) == np.inf
  with pytest.raises(FileNotFoundError):
    files.read_json(tmp_path / 'b.json')


def test_a_container_without_a_home(tmp_path, monkeypatch, capsys):
  """HOME is not set, and the number of the user has no name."""
  for name in ('HOME', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  with pytest.raises(OSError, match='HOME and XDG_CACHE_HOME are not set'):
    files.cache_folder()
  with pytest.raises(ValueError, match='~/a: no home folder is known: write'):
    files.expanded('~/a')
  monkeypatch.setattr(own, '_allowed', {'/a'})
  own.remember(tmp_path, {'path': '/a'})
  own.recall(tmp_path)
  before = jax.config.values['jax_compilation_cache_dir']
  jax.config.update('jax_compilation_cache_dir', None)
  try:
    compiling.keep_compilations(None)
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  said = capsys.readouterr().err
  assert 'are not kept in ~/.cache (HOME and XDG_CACHE_HOME are not' in said
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert files.cache_folder() == tmp_path / 'diffusion_jax'


def test_a_name_that_is_not_utf_8(tmp_path, monkeypatch):
  """tensorstore opens none; all else is written."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  workdir = files.make_folder(tmp_path / os.fsdecode(b'caf\xe9'))
  monkeypatch.setattr(own, '_allowed', {'/a'})
  own.remember(workdir, {'path': '/a'})
  own._allowed.clear()
  own.recall(workdir)
  assert own.is_given('/a')
  files.write_text(workdir / 'a', str(workdir))
  assert (workdir / 'a').read_text().endswith('caf\\udce9')
  with pytest.raises(UserError, match='is not UTF-8: rename the folder'):
    files.check_files(workdir / 'checkpoints')


def test_a_line_of_more_than_a_mebibyte_is_skipped(tmp_path):
  """It is read in parts, which are not objects."""
  long = json.dumps({'a': 'x' * 2**20})
  (tmp_path / 'a.jsonl').write_text(f'{{"step": 1}}\n{long}\n{{"step": 2}}\n')
  entries = [*files.read_json_lines(tmp_path / 'a.jsonl')]
  assert entries == [{'step': 1}, {'step': 2}]


def test_what_turns_the_direction_of_a_line_is_a_space():
  """U+202A to U+202E, and what ends a line."""
  turning = ''.join(map(chr, range(0x2028, 0x202F)))
  assert files.one_line(f'a{turning}\n\x85b') == f'a{" " * 9}b'


def test_the_lines_of_sessions_are_whole(tmp_path):
  sessions.write_start(tmp_path, 0, 5)
  sessions.write_end(tmp_path, 9)
  with (tmp_path / 'sessions.jsonl').open('a') as file:
    file.write('{"event": "sta')
  first, last = sessions.read(tmp_path)
  assert first['parameters'] == 5 and first['versions']['numpy']
  assert last == {'event': 'end', 'step': 9, 'time': last['time']}
  json.dumps(first)
  first['time'], last['time'] = '2026-01-01T10:00:00', '2026-01-01T11:02:03'
  assert sessions.seconds([first, last]) == 3723.0
  assert sessions.seconds([first]) is None
  assert sessions.seconds([{**first, 'step': 3}, last]) is None
  assert sessions.read(tmp_path / 'none') == []


@pytest.mark.parametrize('how', PLANTED)
def test_sessions_are_appended_to_a_file_of_the_run(how, tmp_path):
  """Only lines of JSON come into the run from a file elsewhere."""
  name, text = 'sessions.jsonl', 'secret\n{"event": "start"}\n'
  with planted(how, tmp_path, name, text=text) as run:
    sessions.write_end(run, 9)
  assert 'secret' not in (run / name).read_text()
  assert not (run / name).is_symlink()
  kept = ['start'] * (how in ('link', 'hard link'))
  assert [x['event'] for x in sessions.read(run)] == [*kept, 'end']


def refused():
  return pytest.raises(UserError, match=r'trained by process \d+ on ')


def test_a_file_system_without_flock(tmp_path, monkeypatch):
  """It locks too; the lease of a silent process on another machine ends."""
  missing = mock.Mock(side_effect=OSError(errno.ENOSYS, 'not here'))
  monkeypatch.setattr(fcntl, 'flock', missing)
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
  opened = how == 'hard link'
  how_it_ends = contextlib.nullcontext() if opened else pytest.raises(OSError)
  with planted(how, tmp_path, 'train.lock') as run, how_it_ends, lock.hold(run):
    pass

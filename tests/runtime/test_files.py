"""Files of a run whose folder a stranger has made."""

import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from diffusion_jax.app.config import trust
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import files
from diffusion_jax.runtime.run_folder import RunFolder
from tests.refusals import one_line

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


DAMAGED = {
  'empty': lambda path: path.touch(),
  'deep': lambda path: path.write_text('[' * 200_000),
  'rather deep': lambda path: path.write_text('{"a":' * 300 + '1' + '}' * 300),
  'a list': lambda path: path.write_text('[1]'),
  'binary': lambda path: path.write_bytes(bytes(range(256))),
  'large': lambda path: path.touch() or os.truncate(path, 2**40),
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
  with one_line('config.json cannot be read: ', error=UserError):
    files.read_json(path)
  assert list(files.read_json_lines(path)) == []


def test_json_of_64_bits_and_some_depth_is_exact(tmp_path):
  content = {'step': 2**62, 'seed': -(2**62), 'x': [[[{'y': [1e300, None]}]]]}
  files.write_json(tmp_path / 'a.json', content)
  assert files.read_json(tmp_path / 'a.json') == content
  assert files.parse_json(b'3') == 3
  assert [files.parse_json('1' + '0' * n) for n in (398, 5000)] == 2 * [np.inf]
  with pytest.raises(FileNotFoundError):
    files.read_json(tmp_path / 'b.json')


def test_a_name_that_is_not_utf_8(tmp_path, monkeypatch):
  """tensorstore opens none; all else is written."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  workdir = files.make_folder(tmp_path / os.fsdecode(b'caf\xe9'))
  monkeypatch.setattr(trust, '_allowed', {'/a'})
  trust.remember(
    RunFolder.at(workdir), SimpleNamespace(paths_read=lambda *uses: [('data.path', '/a')])
  )
  trust._allowed.clear()
  trust.recall(RunFolder.at(workdir))
  assert trust.is_given('/a')
  files.write_text(workdir / 'a', str(workdir))
  assert (workdir / 'a').read_text().endswith('caf\\udce9')
  with pytest.raises(UserError, match='is not UTF-8: rename the folder'):
    files.check_files(workdir / 'checkpoints')


def test_a_line_of_more_than_a_mebibyte_is_skipped(tmp_path):
  """A long line is read in parts, which are not objects."""
  long = json.dumps({'a': 'x' * 2**20})
  (tmp_path / 'a.jsonl').write_text(f'{{"step": 1}}\n{long}\n{{"step": 2}}\n')
  assert [*files.read_json_lines(tmp_path / 'a.jsonl')] == [{'step': 1}, {'step': 2}]


def test_a_file_of_any_number_of_lines_is_read_and_one_of_holes_is_not(tmp_path, capsys):
  """The curves of a long training are large; a stranger's file of holes has no end."""
  path, line = tmp_path / 'metrics.jsonl', json.dumps({'step': 1, 'pad': 'x' * 2**19}) + '\n'
  with path.open('w') as file:
    file.writelines(line for _ in range(520))  # 260 MiB
  assert sum(x['step'] for x in files.read_json_lines(path)) == 520
  assert capsys.readouterr().err == ''
  path.write_text(line)
  os.truncate(path, 2**40)
  assert len([*files.read_json_lines(path)]) == 1
  assert 'what follows 16 MiB of damaged lines is left out' in capsys.readouterr().err


def test_what_turns_the_direction_of_a_line_is_a_space():
  """U+202A to U+202E, and what ends a line."""
  turning = ''.join(map(chr, range(0x2028, 0x202F)))
  assert files.one_line(f'a{turning}\n\x85b') == f'a{" " * 9}b'

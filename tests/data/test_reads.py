"""What counts as read by the user's code: all that Python opens for it, and nothing else.

The functions of this file are the user's code; `called` calls them as the package does.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.data import npz, reads, sources
from diffusion_jax.data.sums import of_path
from diffusion_jax.runtime.files import sha256
from diffusion_jax.runtime.per_example import one_ahead


@pytest.fixture(autouse=True)
def new_process(tmp_path, monkeypatch):
  """Records in an empty working folder."""
  reads.watch()
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  for name in 'ab':
    Path(f'{name}.txt').write_text(name)


def called(function):
  list(one_ahead(lambda part: function, [0]))
  return reads.record()


def test_a_file_is_recorded_with_its_content():
  record = called(lambda: Path('a.txt').read_text())
  assert record == {'a.txt': of_path('a.txt')} == reads.now(record)
  Path('a.txt').write_text('c')
  assert reads.now(record) != record


OPENED = {
  'by NumPy': (lambda: np.load('array.npy'), {'array.npy'}),
  'mapped': (lambda: np.load('array.npy', mmap_mode='r'), {'array.npy'}),
  'by a function of ours': (lambda: npz.read('array.npz', ['a']), {'array.npz'}),
  'by its descriptor': (lambda: os.close(os.open('a.txt', os.O_RDONLY)), {'a.txt'}),
  'bytes for a name': (lambda: open(b'a.txt').close(), {'a.txt'}),
  'to be changed': (lambda: open('a.txt', 'r+').close(), {'a.txt'}),
  'a folder': (lambda: [*Path().glob('*.txt')], {'./'}),
  'folders below': (lambda: [*os.walk('.')], {'./'}),
  'in threads': (lambda: pooled(['a.txt', 'b.txt']), {'a.txt', 'b.txt'}),
  'in a thread of others': (lambda: POOL.submit(Path('a.txt').read_text).result(), set()),
  'by a callback in such a thread': (lambda: POOL.submit(callback).result(), {'a.txt'}),
  'in a program of JAX': (lambda: of_program('a.txt'), {'a.txt'}),
  'that is missing': (lambda: Path('none').exists() or tried('none'), {'none'}),
  'written': (lambda: Path('new.txt').write_text('a'), set()),
  'written and read': (lambda: written_and_read('new.txt'), set()),
  'of the moment': (lambda: of_the_moment(), set()),
  'a product of another process': (lambda: made_by_a_process('out.txt'), set()),
  'of the system': (lambda: Path('/proc/self/stat').read_text(), set()),
  'of Python': (lambda: Path(os.__file__).read_text(), set()),
  'of a package': (lambda: Path(np.__file__).read_text(), {'package:numpy'}),
  'versions of packages': (lambda: importlib.metadata.version('numpy'), set()),
  'a device': (lambda: open(os.devnull).close(), set()),
}


POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()  # begins its thread


def callback():
  return Path('a.txt').read_text()


def pooled(names):
  with ThreadPoolExecutor(2) as pool:
    list(pool.map(np.fromfile, names))  # no function of this file is called there


def of_program(name):
  def read(x):
    return np.float32(len(Path(name).read_text())) + x

  assert (
    jax.jit(lambda x: jax.pure_callback(read, jax.ShapeDtypeStruct((), 'float32'), x))(1.0) == 2
  )


def tried(name):
  with pytest.raises(FileNotFoundError):
    open(name)


def written_and_read(name):
  Path(name).write_text('a')
  return Path(name).read_text()


def of_the_moment():
  with tempfile.TemporaryDirectory() as folder:
    Path(folder, 'x').write_text('a')
    os.replace(Path(folder, 'x'), Path(folder, 'y'))
    Path(folder, 'y').read_text()


def made_by_a_process(name):
  subprocess.run([sys.executable, '-c', f'open({name!r}, "w").write("a")'], check=True)
  return Path(name).read_text()


@pytest.mark.parametrize('how', OPENED)
def test_what_is_opened(how):
  np.save('array.npy', np.ones(2))
  np.savez('array.npz', a=np.ones(2))
  if how == 'in threads' and sys.version_info < (3, 12):
    pytest.skip('Python 3.11 does not say that a thread begins')
  function, expected = OPENED[how]
  package = {x for x in called(function) if x.startswith('package:')}
  found = {*reads.record()} - (package - {'package:numpy'} if how == 'of a package' else package)
  assert found == expected


def test_what_is_opened_beside_the_users_parts_is_not_recorded():
  """A notebook opens its own files, and threads of it too; a source is compared by its examples."""
  Path('a.txt').read_text()
  thread = threading.Thread(target=np.fromfile, args=['b.txt'])
  thread.start()
  thread.join()

  class Source:
    facts, in_memory = sources.pictures((2, 2, 1)), False

    def __len__(self):
      return 2

    def read(self, index):
      return {'x': np.full((len(index), 2, 2, 1), len(Path('a.txt').read_text()), np.uint8)}

  sha256('a.txt')  # a function of ours that a script calls
  assert called(lambda: sources.facts_sum(Source())) == {}


def test_a_file_that_changes_meanwhile_is_never_the_same():
  """A result that is made of both contents is made again."""

  def twice():
    Path('a.txt').read_text()
    os.utime('a.txt', (0, 0))
    Path('a.txt').read_text()

  record = called(twice)
  assert record == {'a.txt': reads.CHANGED} != reads.now(record)
  assert reads.joined({'a': '1', 'b': '1'}, {'b': '2', 'c': '1'}) == {
    'a': '1',
    'b': reads.CHANGED,
    'c': '1',
  }
  list(one_ahead(lambda part: open('b.txt').close, [0]))
  Path('b.txt').write_text('later')
  assert reads.record()['b.txt'] == reads.CHANGED
  Path('c.txt').write_text('c')
  called(lambda: Path('c.txt').read_text())
  before = reads.record()
  Path('c.txt').write_text('other')  # later than its sum, which is of what was read
  assert reads.record() == before != reads.now(before)


def test_what_the_settings_have_is_left_to_them():
  """A table that a field names may move: the settings have its content. Not its hidden files."""
  Path('tables').mkdir()
  for name in ('x', '.hidden'):
    Path('tables', name).write_text(name)
  files = ['tables/x', 'tables/.hidden', 'a.txt', 'b.txt']
  called(lambda: [Path(file).read_text() for file in files])
  reads.leave_out(['tables', 'a.txt'])
  assert {*reads.record()} == {'tables/.hidden', 'b.txt'}


def test_files_of_a_strangers_record_are_not_opened(monkeypatch, tmp_path):
  """Without parts of the user's own nothing has been recorded."""
  record = {'a.txt': 'a', '/etc/passwd': 'a', 'package:numpy': 'a', 'package:../x': 'a'}
  monkeypatch.setattr(reads, '_hooks', [])
  monkeypatch.setattr(reads.sums, 'of_path', lambda path: pytest.fail(f'{path} is opened'))
  found = reads.now(record)
  assert found.pop('package:numpy').startswith('numpy-') and {*found.values()} == {''}
  assert reads.now(['a']) == reads.now(None) == {}
  monkeypatch.undo()
  os.mkfifo(tmp_path / 'pipe')
  assert reads.identity(str(tmp_path / 'pipe')) == reads.identity('\0') == ''

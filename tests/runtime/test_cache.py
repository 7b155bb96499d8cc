import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from jax._src.lru_cache import LRUCache

from diffusion_jax.runtime import cache

ROOT = Path(__file__).parents[2]
COMPILE = """
import jax, jax.numpy as jnp
from diffusion_jax.runtime import cache
cache.keep_compilations()
print(jax.config.jax_compilation_cache_dir)
for _ in range(2):
  jax.clear_caches()  # only the files are left
  cache.seconds.clear()
  jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(3))
  print(*cache.source())
"""


def test_compiled_programs_are_kept_in_the_cache_of_the_user(tmp_path):
  """The second time they come from there, in less than the time to compile."""
  own = 'JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME'
  env = {name: value for name, value in os.environ.items() if name not in own}
  env |= {'HOME': str(tmp_path), 'PYTHONPATH': str(ROOT)}
  result = subprocess.run(
    [sys.executable, '-c', COMPILE],
    env=env | {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'},
    capture_output=True,
    text=True,
    check=True,
  )
  place, *sources = result.stdout.splitlines()
  place = Path(place)
  expected = tmp_path / '.cache' / 'diffusion_jax' / 'compiled'
  assert place.parent == expected and not result.stderr
  assert list(place.glob('*-cache'))
  names, times = zip(*(x.rsplit(' ', 1) for x in sources), strict=True)
  assert names == ('compilation', 'from the cache')
  assert float(times[0]) > float(times[1]) > 0


def test_a_program_is_written_whole_and_one_that_a_kill_has_cut_again(
  tmp_path, monkeypatch
):
  """Another worker may read it, and JAX would keep a cut one for ever."""
  cache.write_whole()
  programs = LRUCache(str(tmp_path), max_size=-1)
  with monkeypatch.context() as patch:
    patch.setattr(Path, 'replace', lambda *args: 1 / 0)  # killed
    with pytest.raises(ZeroDivisionError):
      programs.put('program', b'whole')
  assert programs.get('program') is None
  (tmp_path / 'program-cache').write_bytes(b'wh')
  programs.put('program', b'whole')
  assert programs.get('program') == b'whole'
  assert [path.name for path in tmp_path.iterdir()] == ['program-cache']


@pytest.fixture
def told(monkeypatch):
  """Returns a list of the folders that JAX is told to use."""
  told = []
  config = types.SimpleNamespace(
    values={'jax_compilation_cache_dir': None},
    update=lambda name, value: name.endswith('_dir') and told.append(value),
  )
  monkeypatch.setattr(cache, 'jax', types.SimpleNamespace(config=config))
  return told


@pytest.mark.parametrize('mine, field, used', [
  (None, '', []), (None, 'field', [f'field/{cache.processor()}']),
  ('mine', 'field', []),  # of JAX, which stays
])  # fmt: skip
def test_a_field_names_the_folder_and_an_empty_one_keeps_nothing(
  mine, field, used, told, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  cache.jax.config.values['jax_compilation_cache_dir'] = mine
  cache.keep_compilations(field)
  assert told == used and [*map(str, tmp_path.glob('*/*'))] == [
    str(tmp_path / path) for path in used
  ]
  assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_warning(told, tmp_path, capsys):
  (tmp_path / 'file').write_text('in the way')
  cache.keep_compilations(str(tmp_path / 'file'))
  said = capsys.readouterr().err
  assert said.startswith('warning: compiled programs are not kept in ')
  assert said.count('\n') == 1 and 'config.compilation_cache' in said
  assert not told


@pytest.mark.parametrize('limit, left', [(300, 3), (299, 2), (0, 0)])
def test_the_oldest_programs_are_deleted_beyond_the_limit(
  limit, left, tmp_path
):
  names = '0-cache.12ab.tmp', '1-cache', '2-cache'  # A kill has left the first.
  for i, name in enumerate(names):
    path = tmp_path / 'one' / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (1000 + i, 1000 + i))
  (tmp_path / 'notes').write_bytes(bytes(1000))  # is not in the cache
  cache.delete_oldest(tmp_path, limit)
  kept = sorted(path.name for path in tmp_path.rglob('*-cache*'))
  assert kept == [*names][3 - left :]
  assert (tmp_path / 'notes').exists()

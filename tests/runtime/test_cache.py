import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_jax.runtime import cache

ROOT = Path(__file__).parents[2]
COMPILE = """
import sys, jax, jax.numpy as jnp
from diffusion_jax.runtime.cache import keep_compilations
keep_compilations(*sys.argv[1:])
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(3))
"""


def compile_in_a_process(home, *path, **more):
  """Returns (stdout, stderr) of a process without the tests' JAX settings."""
  own = 'JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME'
  env = {name: value for name, value in os.environ.items() if name not in own}
  env |= {'HOME': str(home), 'PYTHONPATH': str(ROOT), **more}
  env['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  result = subprocess.run(
    [sys.executable, '-c', COMPILE, *map(str, path)],
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  return result.stdout.strip(), result.stderr


def test_compiled_programs_are_kept_in_the_cache_of_the_user(tmp_path):
  place, said = compile_in_a_process(tmp_path)
  expected = tmp_path / '.cache' / 'diffusion_jax' / 'compiled'
  assert Path(place).parent == expected and not said
  assert list(Path(place).glob('*-cache'))


def test_an_empty_field_keeps_nothing(tmp_path):
  place, said = compile_in_a_process(tmp_path, '')
  assert place == 'None' and not said
  assert not list(tmp_path.iterdir())


def test_the_folder_that_the_user_gives_to_jax_stays(tmp_path):
  mine = tmp_path / 'mine'
  place, _ = compile_in_a_process(
    tmp_path, tmp_path / 'field', JAX_COMPILATION_CACHE_DIR=str(mine)
  )
  assert place == str(mine)
  assert not (tmp_path / 'field').exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
  (tmp_path / 'file').write_text('in the way')
  place, said = compile_in_a_process(tmp_path, tmp_path / 'file')
  assert place == 'None'
  assert said.startswith('warning: compiled programs are not kept in ')
  assert said.count('\n') == 1 and 'config.compilation_cache' in said


@pytest.mark.parametrize('limit, left', [(300, 3), (299, 2), (0, 0)])
def test_the_oldest_programs_are_deleted_beyond_the_limit(
  limit, left, tmp_path
):
  for i in range(3):
    path = tmp_path / 'one' / f'{i}-cache'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (1000 + i, 1000 + i))
  (tmp_path / 'notes').write_bytes(bytes(1000))  # is not in the cache
  cache.delete_oldest(tmp_path, limit)
  kept = sorted(path.name for path in tmp_path.rglob('*-cache'))
  assert kept == [f'{i}-cache' for i in range(3)][3 - left :]
  assert (tmp_path / 'notes').exists()

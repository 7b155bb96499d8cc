"""Programs are compiled by the user's options, announced if long, and kept in a cache."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.lru_cache import LRUCache
from jax.experimental.layout import Format, Layout
from numpy.testing import assert_array_equal

from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.sharding import make_mesh, replicated

ROOT = Path(__file__).parents[2]
TRITON = 'xla_gpu_enable_triton_gemm'
RACES = 'xla_gpu_experimental_enable_fusion_autotuner'


def options(platform, *args):
  mesh: Any = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
  return compiling.options(mesh, *args)


@pytest.mark.parametrize(
  'version, arguments, expected',
  [
    ('0.12.0', ('cpu', 'tuned'), {}),
    ('0.12.0', ('cpu', 'fast'), {'xla_backend_optimization_level': 1}),
    ('0.12.0', ('tpu', 'fast'), {}),
    ('0.12.0', ('gpu', 'tuned'), {TRITON: False}),
    ('1.0', ('gpu', 'fast'), {TRITON: False, RACES: False, 'xla_gpu_autotune_level': 0}),
    # cuBLASLt's biases were wrong, so that Triton's products are needed.
    ('0.10.2', ('gpu', 'tuned'), {}),
    ('0.11.2', ('gpu', 'fast'), {}),
    # Only GPUs have operations that are not deterministic.
    ('0.11.2', ('gpu', 'tuned', True), {'xla_gpu_exclude_nondeterministic_ops': True}),
    ('0.11.2', ('cpu', 'tuned', True), {}),
  ],
)
def test_the_options_of_a_program(version, arguments, expected, monkeypatch):
  monkeypatch.setattr(compiling.metadata, 'version', lambda name: version)
  monkeypatch.setattr(compiling, '_exists', lambda name, value: True)
  monkeypatch.delenv('XLA_FLAGS')
  assert options(*arguments) == expected


def test_what_the_user_sets_stays_and_unknown_options_are_left_out(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', f'--{TRITON}=true')
  monkeypatch.setattr(compiling.metadata, 'version', lambda name: '0.12.0')
  monkeypatch.setattr(compiling, '_exists', lambda name, value: name != RACES)
  assert options('gpu', 'fast') == {'xla_gpu_autotune_level': 0}


def test_xla_knows_its_options_on_any_machine():
  """XLA refuses an unknown option when it compiles, and `_exists` knows this before."""
  assert compiling._exists('xla_backend_optimization_level', 1)
  assert not compiling._exists('xla_no_such_option', 1)
  with pytest.raises(jax.errors.JaxRuntimeError, match='No such'):
    jax.jit(lambda: 1, compiler_options={'xla_no_such_option': 1}).lower().compile()


def test_a_long_compilation_is_two_lines(capsys):
  with compiling.announced('the step', after=0.01):
    time.sleep(0.2)
  assert capsys.readouterr().out == ('compiling the step ...\ncompiled the step: 0 s\n')
  with compiling.announced('the step', after=10.0):
    pass
  assert not capsys.readouterr().out


def test_only_the_first_call_that_computes_is_announced(monkeypatch):
  said = []
  announced = compiling.announced
  monkeypatch.setattr(compiling, 'announced', lambda what: said.append(what) or announced(what))
  mesh = make_mesh(devices=jax.devices()[:1])
  call, compile = compiling.program('the sum', jnp.sum, mesh, 'fast')
  assert jax.eval_shape(call, jnp.ones(3)).shape == () and not said
  compile(jax.ShapeDtypeStruct((3,), jnp.float32))
  assert not said
  assert [call(jnp.ones(3)), call(jnp.ones(3))] == [3.0, 3.0]
  assert said == ['the sum']


@pytest.mark.parametrize('own, expected', [(None, '2'), ('1', '2'), ('0', '0'), ('3', '3')])
def test_messages_of_xla_are_hidden_unless_wanted(own, expected, monkeypatch):
  monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)
  if own is not None:
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', own)
  compiling.hide_warnings()
  assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == expected


@pytest.mark.parametrize('absent', [True, False])
def test_libtpu_is_told_that_there_is_no_tpu(absent, monkeypatch):
  """JAX sets TPU_SKIP_MDS_QUERY where it finds none; libtpu reported that."""
  names = 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_HOSTNAMES'
  for name in names:
    monkeypatch.setenv(name, '')  # so that it is as before after the test
    monkeypatch.delenv(name)
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)
  if absent:
    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  compiling.hide_warnings()
  assert [name in os.environ for name in names] == [absent, absent]


def test_a_state_takes_the_layouts_of_its_program_and_keeps_them():
  """Columns come first, as a GPU might choose; results do not change."""
  place = replicated(make_mesh(devices=jax.devices()[:1]))
  columns = Format(Layout(major_to_minor=(1, 0)), place)
  x, collects = np.arange(4.0, dtype=np.float32).reshape(2, 2), []

  def step(state, x):
    collects.append(gc.isenabled())
    return {'w': 0.5 * state['w'] + x @ state['w']}, jnp.sum(state['w'])

  jitted = jax.jit(
    step,
    donate_argnums=0,
    in_shardings=({'w': columns}, None),
    out_shardings=({'w': columns}, place),
  )
  state = {'w': jax.device_put(np.eye(2, dtype=np.float32), place)}
  shapes = {'w': jax.ShapeDtypeStruct((2, 2), jnp.float32, sharding=place)}
  run = compiling.in_place(jitted, shapes)
  run.compile(x)
  assert [*collects, gc.isenabled()] == [False, True]  # Tracing starts no collection.
  expected, new = np.eye(2), state
  for _ in range(2):
    new, total = run.start(new, x)
    assert total == expected.sum()
    expected = 0.5 * expected + x @ expected
    assert new['w'].format.layout.major_to_minor == (1, 0)
    assert_array_equal(new['w'], expected)
  assert_array_equal(jax.jit(lambda state: 2.0 * state['w'])(new), 2.0 * expected)


def test_only_on_gpus_xla_chooses_the_layouts(monkeypatch):
  mesh = make_mesh(devices=jax.devices()[:1])
  place = replicated(mesh)
  shapes = {'w': jax.ShapeDtypeStruct((2, 2), jnp.float32, sharding=place)}
  assert compiling.places_of(mesh, shapes) == {'w': place}
  monkeypatch.setattr(compiling, 'platform_of', lambda mesh: 'gpu')
  found = compiling.places_of(mesh, shapes)['w']
  assert isinstance(found, Format) and found.layout is Layout.AUTO


COMPILE = """
import os, time
import jax, jax.numpy as jnp
from diffusion_jax.runtime import compiling
compiling.keep_compilations()
print(jax.config.jax_compilation_cache_dir)
for _ in range(2):
  jax.clear_caches()  # only the files are left
  before = compiling.spent()
  jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(3))
  print(*compiling.source(before))
for function in (jnp.cos, lambda x: jax.pure_callback(lambda y: y, x, x)):
  before = len(os.listdir(jax.config.jax_compilation_cache_dir))
  with compiling.announced('one', after=0.0):
    time.sleep(0.1)
    jax.jit(function)(jnp.eye(3))
  print(len(os.listdir(jax.config.jax_compilation_cache_dir)) > before)
"""


def test_compiled_programs_are_kept_in_the_cache_of_the_user(tmp_path):
  """The second time they come from there; JAX 0.10 keeps none with callbacks."""
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
  place, *sources, _, cosine, is_kept, _, callback, is_callback_kept = result.stdout.splitlines()
  place = Path(place)
  assert place.parent == tmp_path / '.cache/diffusion_jax/compiled' and not result.stderr
  assert list(place.glob('*-cache'))
  names, times = zip(*(x.rsplit(' ', 1) for x in sources), strict=True)
  assert names == ('compilation', 'from the cache')
  assert float(times[0]) > float(times[1]) > 0
  said = {'True': 'compiled one: 0 s, kept for the next start', 'False': 'compiled one: 0 s'}
  assert is_kept == 'True' and cosine == said[is_kept] and callback == said[is_callback_kept]


def test_a_program_is_written_whole_and_one_that_a_kill_has_cut_again(tmp_path, monkeypatch):
  """A worker may read a program while another writes it, and JAX would keep a cut one for ever."""
  compiling.write_whole()
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
def folders(monkeypatch):
  told = []
  config = SimpleNamespace(
    values={'jax_compilation_cache_dir': None},
    update=lambda name, value: name.endswith('_dir') and told.append(value),
  )
  monkeypatch.setattr(compiling, 'jax', SimpleNamespace(config=config))
  return told


def test_a_field_names_the_folder_and_an_empty_one_keeps_nothing(folders, tmp_path, capsys):
  compiling.keep_compilations('')
  assert not folders
  compiling.keep_compilations(str(tmp_path))
  assert folders == [str(tmp_path / compiling.processor())]
  assert not capsys.readouterr().err


def test_the_folder_that_the_user_gives_to_jax_stays(folders, tmp_path):
  compiling.jax.config.values['jax_compilation_cache_dir'] = 'mine'
  compiling.keep_compilations(str(tmp_path / 'field'))
  assert not folders and not (tmp_path / 'field').exists()


def test_a_folder_that_cannot_be_written_is_a_warning(folders, tmp_path, capsys):
  (tmp_path / 'file').write_text('in the way')
  compiling.keep_compilations(str(tmp_path / 'file'))
  said = capsys.readouterr().err
  assert said.startswith('warning: compiled programs are not kept in ')
  assert said.count('\n') == 1 and 'config.compilation_cache' in said
  assert not folders


@pytest.mark.parametrize('limit, left', [(300, 3), (299, 2), (0, 0)])
def test_the_oldest_programs_are_deleted_beyond_the_limit(limit, left, tmp_path):
  names = ('0-cache.12ab.tmp', '1-cache', '2-cache')  # A kill has left the first.
  for i, name in enumerate(names):
    path = tmp_path / 'one' / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (1000 + i, 1000 + i))
  (tmp_path / 'notes').write_bytes(bytes(1000))  # is not in the cache
  compiling.delete_oldest(tmp_path, limit)
  assert sorted(path.name for path in tmp_path.rglob('*-cache*')) == [*names][3 - left :]
  assert (tmp_path / 'notes').exists()

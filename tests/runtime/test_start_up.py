"""The seconds, lines and memory of a start, and what it says about unused devices."""

import functools
import json
import os
import re
import subprocess
import sys
import time

import jax
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import start_up
from diffusion_jax.runtime.start_up import StartUp, seconds_since_launch
from tests.rows import slow

# What a process of its own prints: its age, a quarter of a second later too, and the new pages of
# a block that is mapped twice, as it is and where freed memory is kept.
CODE = f"""
import json, resource, runpy, sys, time
import numpy as np
start_up = runpy.run_path({start_up.__file__!r})

def pages():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  x = np.empty(int(sys.argv[1]), np.float32)
  x[:: 2**18] = 1.0  # one page a MiB
  del x
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

time.sleep(0.5)
first = start_up['seconds_since_launch']()
time.sleep(0.25)
second = start_up['seconds_since_launch']()
as_it_is = pages(), pages()
is_kept = start_up['keep_freed_memory']()
kept = pages(), pages()
print(json.dumps([first, second, is_kept, as_it_is, kept]))
"""


SIZE = 2**24  # numbers of a block of 64 MiB


@functools.cache
def printed(size):
  command = [sys.executable, '-c', CODE, str(size)]
  environment = os.environ | {'NUMPY_MADVISE_HUGEPAGE': '0'}
  start = time.monotonic()
  out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
  return time.monotonic() - start, *json.loads(out.stdout)


def test_the_age_of_a_process_is_known_where_it_can_be():
  seconds, age, later, *_ = printed(SIZE)
  if seconds_since_launch() is not None:
    assert age >= 0.48 and later - age >= 0.23 and later <= seconds + 0.02  # ticks of 10 ms


def test_a_start_is_one_line_whose_phases_add_up():
  start = StartUp()
  start.mark('data')
  start.mark('compilation')
  said = start.line()
  start.mark('data')  # of a later step
  assert start.line() == said and '\n' not in said
  total, *parts = map(float, re.findall(r'\d+\.\d', said))
  assert abs(total - sum(parts)) <= 0.05 * (len(parts) + 1)
  assert said.endswith(f'data {parts[-2]:.1f}, compilation {parts[-1]:.1f}')


def test_the_last_part_of_a_phase_is_a_phase(monkeypatch):
  now = iter([0.0, 5.0])
  monkeypatch.setattr(start_up.time, 'perf_counter', lambda: next(now))
  monkeypatch.setattr(start_up, 'seconds_since_launch', lambda: None)
  start = StartUp()
  start.mark('tracing', 'from the cache', 1.5)
  assert start.line().endswith('tracing 3.5, from the cache 1.5')
  assert start.line(verbose=False).endswith(' 5.0 s after the launch, of which tracing took 3.5')


@pytest.mark.parametrize('size', [SIZE, slow(3 * 2**28)])  # 64 MiB, 3 GiB
def test_a_freed_block_is_used_again_without_new_pages(size):
  *_, is_kept, as_it_is, kept = printed(size)
  if not is_kept:
    pytest.skip('the C library is not glibc')
  assert as_it_is[1] > 25 and kept[1] < 10  # a page a MiB, or larger ones


def test_variables_of_the_user_are_left_as_they_are(monkeypatch):
  monkeypatch.setattr(start_up.ctypes, 'CDLL', lambda name: pytest.fail('malloc is changed'))
  monkeypatch.setenv('MALLOC_ARENA_MAX', '4')
  assert not start_up.keep_freed_memory()


def wrote(stdout, monkeypatch, folder):
  """Prints to a stdout that takes nothing; returns what stderr has."""
  with (folder / 'stderr').open('w') as stderr, monkeypatch.context() as patch:
    patch.setattr(sys, 'stdout', stdout)
    patch.setattr(sys, 'stderr', stderr)
    start_up.open_streams()
    for i in range(3):
      print('lost', flush=i == 1)
      sys.stdout.write('more' * 100_000)
    print('kept caf\udce9', file=sys.stderr)
    sys.stdout.close()
    sys.stderr.close()
  return (folder / 'stderr').read_text()


@pytest.mark.parametrize('how', ['pipe', 'none'])
def test_a_pipe_that_nobody_reads_is_no_error(how, monkeypatch, tmp_path):
  """Output is lost without an error in `--help | true`, and in `>&-`, where stdout is closed."""
  reads, writes = os.pipe()
  os.close(reads)
  with open(writes, 'w') as pipe:
    stdout = pipe if how == 'pipe' else None
    assert wrote(stdout, monkeypatch, tmp_path) == 'kept caf\\udce9\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='of Linux')
def test_a_stdout_on_a_full_disk_is_one_line(monkeypatch, tmp_path):
  with open('/dev/full', 'w') as full:
    first, last = wrote(full, monkeypatch, tmp_path).splitlines()
  assert first == 'note: stdout cannot be written (No space left on device); its lines are lost'
  assert last == 'kept caf\\udce9'


def on_machine(monkeypatch, folder, listed, environ, code=0):
  """Lets nvidia-smi list some GPUs, with these variables of the environment and no others."""
  tool = folder / 'nvidia-smi'
  tool.write_text(f'#!/bin/sh\necho "{listed}"\nexit {code}\n')
  tool.chmod(0o755)
  monkeypatch.setenv('PATH', str(folder), prepend=os.pathsep)
  for name in [*os.environ]:
    if name in ('JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES') or name.startswith('SLURM_'):
      monkeypatch.delenv(name)
  for name, value in environ.items():
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
  'listed, code, environ, note',
  [
    (
      'GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-8)',
      0,
      {},
      'not the NVIDIA A100-SXM4-80GB: pip install',
    ),
    ('GPU 0: NVIDIA T4 (UUID: GPU-8)', 0, {'JAX_PLATFORMS': 'cpu'}, ''),
    ('GPU 0: NVIDIA T4 (UUID: GPU-8)', 0, {'CUDA_VISIBLE_DEVICES': ''}, ''),
    ('NVIDIA-SMI has failed', 9, {}, ''),
    ('No devices found.', 0, {}, ''),
  ],
)
def test_a_gpu_that_is_not_used_is_named(listed, code, environ, note, tmp_path, monkeypatch):
  on_machine(monkeypatch, tmp_path, listed, environ, code)
  said = start_up.unused_gpu()
  assert note in said and bool(note) == bool(said) and '\n' not in said


EIGHT = '\n'.join(f'GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})' for i in range(8))
NODE = {'SLURM_JOB_NUM_NODES': '1', 'SLURM_NTASKS': '1', 'SLURM_GPUS_ON_NODE': '8'}
# The batch script of two nodes of 8, started without srun; and with it.
NODES = {'SLURM_JOB_NUM_NODES': '2', 'SLURM_NTASKS': '16', 'SLURM_GPUS_PER_NODE': 'h100:8'}


@pytest.mark.parametrize(
  'size, seen, processes, environ, said',
  [
    (8, 8, 1, {}, ''),
    (8, 1, 8, {}, ''),  # a process for each GPU
    (1, 1, 1, {}, '8 GPUs, and this training uses 1 (JAX sees 1)'),
    (1, 1, 1, {'CUDA_VISIBLE_DEVICES': '3'}, '1 (JAX sees 1, by CUDA_VISIBLE_DEVICES=3)'),
    (2, 8, 1, {}, 'uses 2 (--config.training.machine.mesh=-1,1 takes the 8 that JAX sees)'),
    (8, 8, 1, NODE, ''),
    (1, 1, 1, NODE, 'SLURM gave this job 8 GPUs, and this training uses 1 of them'),
    (1, 1, 1, NODES, '16 tasks, and 1 joined in this training: start it by srun, with --multihost'),
    (8, 8, 1, NODES, 'SLURM gave this job 16 GPUs, and this training uses 8'),
    (16, 1, 16, NODES, ''),
    (
      2,
      1,
      2,
      {'SLURM_NTASKS': '2', 'SLURM_GPUS_PER_TASK': '4'},
      '8 GPUs, and this training uses 2',
    ),
    (1, 1, 1, {'SLURM_NTASKS': '1', 'SLURM_GPUS': 'gpu:a100:4'}, 'gave this job 4 GPUs'),
  ],
)
def test_who_asked_for_more_gpus_is_told(
  size, seen, processes, environ, said, tmp_path, monkeypatch
):
  on_machine(monkeypatch, tmp_path, EIGHT, environ)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'local_device_count', lambda: seen)
  monkeypatch.setattr(jax, 'process_count', lambda: processes)
  notes = start_up.unused_by_training(size)
  assert said in ' '.join(notes) and bool(said) == bool(notes) and '\n' not in ''.join(notes)


def test_tasks_that_did_not_join_are_told_without_gpus(tmp_path, monkeypatch):
  on_machine(monkeypatch, tmp_path, EIGHT, {'SLURM_NTASKS': '8'})
  assert len(start_up.unused_by_training(1)) == 1
  on_machine(monkeypatch, tmp_path, EIGHT, {})
  assert not start_up.unused_by_training(1)


def test_settings_of_jax_that_change_results_are_versions():
  before = jax.config.values['jax_random_seed_offset']
  jax.config.update('jax_random_seed_offset', before + 1)
  try:
    assert start_up.versions(())['jax_random_seed_offset'] == str(before + 1)
  finally:
    jax.config.update('jax_random_seed_offset', before)


def test_threads_are_fixed_before_jax_computes(monkeypatch):
  """A process that was started with this number has it."""
  monkeypatch.delenv('PJRT_NPROC', raising=False)
  monkeypatch.setattr(start_up.xla_bridge, 'backends_are_initialized', lambda: True)
  with pytest.raises(UserError, match='set PJRT_NPROC=8 in the environment'):
    start_up.fix_threads()
  assert 'PJRT_NPROC' not in os.environ
  monkeypatch.setenv('PJRT_NPROC', '8')
  start_up.fix_threads()

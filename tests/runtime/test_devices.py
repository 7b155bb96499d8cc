"""What is said about devices that a program does not use."""

import os

import jax
import pytest

from diffusion_jax.runtime import devices


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
  said = devices.unused_gpu()
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
  notes = devices.unused_by_training(size)
  assert said in ' '.join(notes) and bool(said) == bool(notes) and '\n' not in ''.join(notes)


def test_tasks_that_did_not_join_are_told_without_gpus(tmp_path, monkeypatch):
  on_machine(monkeypatch, tmp_path, EIGHT, {'SLURM_NTASKS': '8'})
  assert len(devices.unused_by_training(1)) == 1
  on_machine(monkeypatch, tmp_path, EIGHT, {})
  assert not devices.unused_by_training(1)

"""Devices that a program does not use, although its user may think that it does."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

import jax


def unused_gpu() -> str:
  """Returns a note if JAX uses the CPU where nvidia-smi lists a GPU, '' otherwise.

  Whoever sets JAX_PLATFORMS or CUDA_VISIBLE_DEVICES has chosen.
  """
  chosen = {'JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES'} & os.environ.keys()
  if chosen or jax.default_backend() != 'cpu' or not (names := _names_of_gpus()):
    return ''
  return f"note: JAX uses the CPU, not the {names[0]}: pip install -e '.[cuda]'"


def unused_by_training(size: int) -> list[str]:
  """Returns a note for each thing that a training on `size` devices leaves unused.

  They are GPUs of the machine, and tasks and GPUs of a job of SLURM.
  """
  processes, platform = jax.process_count(), jax.default_backend()
  tasks, gpus = _given_by_slurm(os.environ)
  notes = []
  if tasks > processes:
    notes.append(
      f'note: SLURM gave this job {tasks} tasks, and {processes} joined in this training: '
      'start it by srun, with --multihost'
    )
  if platform != 'gpu':
    return notes
  if gpus > size:
    notes.append(f'note: SLURM gave this job {gpus} GPUs, and this training uses {size} of them')
  elif processes == 1 and (found := len(_names_of_gpus())) > size:
    seen = jax.local_device_count()
    why = f'JAX sees {seen}'
    if seen > size:
      why = f'--config.training.machine.mesh=-1,1 takes the {seen} that JAX sees'
    elif visible := os.environ.get('CUDA_VISIBLE_DEVICES'):
      why += f', by CUDA_VISIBLE_DEVICES={visible}'
    notes.append(f'note: this machine has {found} GPUs, and this training uses {size} ({why})')
  return notes


def _names_of_gpus() -> list[str]:
  # Of this machine, also those that JAX cannot see.
  if not shutil.which('nvidia-smi'):
    return []
  try:
    listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return []
  if listed.returncode:
    return []
  return re.findall('^GPU [0-9]+: (.*?) *(?:\\(|$)', listed.stdout, re.MULTILINE)


def _given_by_slurm(environ: Mapping[str, str]) -> tuple[int, int]:
  # The numbers of tasks and GPUs of a job; 0 where SLURM does not say.
  def number(name, default=0):
    digits = re.search('[0-9]+$', environ.get(name, ''))  # such as 8, a100:8, gpu:a100:8
    return int(digits[0]) if digits else default

  nodes, tasks = number('SLURM_JOB_NUM_NODES', 1), number('SLURM_NTASKS')
  each_node = number('SLURM_GPUS_ON_NODE') or number('SLURM_GPUS_PER_NODE')
  of_tasks = number('SLURM_GPUS_PER_TASK') * tasks
  return tasks, number('SLURM_GPUS') or of_tasks or each_node * nodes

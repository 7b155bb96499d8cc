"""Replaces launch.py: joins SLURM's other processes and prints a line."""

import jax

from diffusion_jax.runtime import processes

processes.start(None, None, None, 30)
if processes.is_first():
  print(f'{jax.process_count()} processes, {jax.device_count()} devices')

"""In place of launch.py: joins the others as SLURM says, and says so."""

import jax

from diffusion_jax.runtime import processes

processes.start(None, None, None, 30)
if processes.is_first():
  print(f'{jax.process_count()} processes, {jax.device_count()} devices')

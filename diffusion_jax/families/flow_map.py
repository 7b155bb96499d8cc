"""Flow maps: models of few steps, and the teachers that train them.

A run with a teacher reads it at every start, from objective.teacher. What it
began with is in teacher.json, and another teacher is refused.
"""

import json
from pathlib import Path

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.guidance import of_network
from diffusion_jax.build.flow_map import check_noise_input, needs_teacher
from diffusion_jax.build.schedule import build_schedule
from diffusion_jax.errors import UserError
from diffusion_jax.families import diffusion
from diffusion_jax.runs import guidance_runs, processes, run_folder
from diffusion_jax.training import checkpoints, checksums

_FIELD = 'objective.teacher'


def check(config):
  """Raises UserError for what flow maps cannot have."""
  c = config.sampling
  if config.latent.run:
    raise UserError(
      f'config.objective.name={config.objective.name} in latents (latent.run) '
      "is not there: take pixels, or objective.name='denoising'"
    )
  ...

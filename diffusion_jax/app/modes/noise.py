"""Implements --mode=noise: noises a photo and tests how white the end is."""

import json
from pathlib import Path

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.demos import noising
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import make_folder, write_json


def run(config: Node, workdir: str | Path) -> None:
  """Writes pictures, plots and white_noise.json into workdir."""
  if 'noise' not in config:
    raise UserError('this config has no section noise: give --config=configs/noise_photo.py')
  schedule = config.schedule.make()
  if not isinstance(schedule, dj.DiscreteSchedule):
    raise UserError(
      f'config.schedule={config.schedule.name} has no steps: set it to linear, '
      'or another schedule of betas or alphas'
    )
  photo_noise = config.noise.make()
  with from_config('noise'):
    photo = photo_noise.photo()
  out = make_folder(workdir)
  steps, report = noising.write(photo_noise, photo, schedule, config.seed, out)
  write_json(out / 'white_noise.json', report)
  print(json.dumps(report, indent=2))
  print(f'strip.png shows t = {", ".join(map(str, steps))}')
  for name in ('strip.png', 'noise.gif', 'schedule.png', 'spectrum.png'):
    print(f'wrote {out / name}')
  print(f'wrote {out / "white_noise.json"}')

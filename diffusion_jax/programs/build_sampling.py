"""config.sampling -> the levels that a sampler visits."""

import diffusion_jax as dj
from diffusion_jax.programs.choices import from_config


def build_levels(config, schedule):
  """config.sampling -> NoiseLevel [N+1], noisiest first.

  `respacing`, where it is given, names the steps; else `num_steps` are placed
  by `spacing`.
  """
  c = config.sampling
  with from_config('sampling'):
    if not c.respacing:
      return dj.level_grid(schedule, c.num_steps, c.spacing)
    if not hasattr(schedule, 'num_steps'):
      raise ValueError('respacing needs a schedule of steps')
    steps = dj.respaced_steps(schedule.num_steps, c.respacing)
    return dj.step_levels(schedule, steps)

"""Schedulers of diffusers as sections of our configs, and back."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffusion_jax.core.betas import zero_terminal_snr
from diffusion_jax.interop.options import check, check_known

# The options of DDPMScheduler with their defaults. DDIMScheduler has the same
# except variance_type, and set_alpha_to_one.
DDPM: dict[str, Any] = {
  '_class_name': 'DDPMScheduler',
  'num_train_timesteps': 1000,
  'beta_start': 1e-4,
  'beta_end': 0.02,
  'beta_schedule': 'linear',
  'trained_betas': None,
  'variance_type': 'fixed_small',
  'clip_sample': True,
  'prediction_type': 'epsilon',
  'thresholding': False,
  'dynamic_thresholding_ratio': 0.995,
  'clip_sample_range': 1.0,
  'sample_max_value': 1.0,
  'timestep_spacing': 'leading',
  'steps_offset': 0,
  'rescale_betas_zero_snr': False,
}

# diffusers' name: ours
_BETAS = {
  'linear': 'linear',
  'scaled_linear': 'scaled_linear',
  'squaredcos_cap_v2': 'cosine',
  'sigmoid': 'sigmoid',
}
_PREDICTIONS = {'epsilon': 'eps', 'sample': 'x0', 'v_prediction': 'v'}
_VARIANCES = {
  'fixed_small': 'fixed_small',
  'fixed_small_log': 'fixed_small',  # the same number by its logarithm
  'fixed_large': 'fixed_large',
  'learned_range': 'learned',
}
_SPACINGS = ('leading', 'linspace', 'trailing')
_SAMPLERS = {'DDPMScheduler': 'ancestral', 'DDIMScheduler': 'ddim'}
# Other samplers of the same models: only the trained schedule is read.
_SAME_MODELS = (
  'PNDMScheduler',
  'DPMSolverMultistepScheduler',
  'DPMSolverSinglestepScheduler',
  'DEISMultistepScheduler',
  'UniPCMultistepScheduler',
  'EulerDiscreteScheduler',
  'EulerAncestralDiscreteScheduler',
  'HeunDiscreteScheduler',
  'LMSDiscreteScheduler',
)
_DDIM_STEPS = 50  # of DDIMPipeline


def read_sections(
  config: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns (sections, notes) of a scheduler_config.json.

  sections: schedule, noise_input, parametrization and sampling; notes:
  sentences on what was not taken. Raises ValueError for an option that we do
  not have, with its value.
  """
  given = str(config.get('_class_name'))
  classes = (*_SAMPLERS, *_SAME_MODELS)
  check('diffusers', {'scheduler': given}, {'scheduler': classes})
  c = SimpleNamespace(**DDPM | {n: x for n, x in config.items() if n in DDPM})
  notes = ()
  if given in _SAMPLERS:
    check_known(given, (*DDPM, 'set_alpha_to_one'), [
      n for n, x in config.items() if not n.startswith('_') and x is not None
    ])  # fmt: skip
    check(given, DDPM | dict(config), _allowed(c, config))
  else:
    c.variance_type = DDPM['variance_type']
    notes = (
      f'{given} is a way to sample that is not taken: sampling is DDIM of '
      f'{_DDIM_STEPS} steps, any --config.sampling.sampler can be given',
    )
  check(given, vars(c), {
    'beta_schedule': tuple(_BETAS) if c.trained_betas is None else '',
    'prediction_type': tuple(_PREDICTIONS),
    'variance_type': tuple(_VARIANCES),
    'timestep_spacing': _SPACINGS,
  })  # fmt: skip
  schedule = _schedule(c)
  sampler: dict[str, Any] = {'name': _SAMPLERS.get(given, 'ddim')}
  num_steps = _DDIM_STEPS
  if sampler['name'] == 'ancestral':
    sampler['variance'] = _VARIANCES[c.variance_type]
    num_steps = c.num_train_timesteps
    if c.trained_betas is not None:
      num_steps = len(c.trained_betas)
  threshold = float(c.dynamic_thresholding_ratio) if c.thresholding else 0.0
  return {
    'schedule': schedule,
    'noise_input': {'name': 'step'},
    'parametrization': {'name': _PREDICTIONS[c.prediction_type]},
    'sampling': {
      'sampler': sampler,
      'num_steps': num_steps,
      'spacing': c.timestep_spacing,
      'clip': bool(c.clip_sample),
      'dynamic_threshold': threshold,
    },
  }, notes


def _allowed(c, config):
  # What is not here depends on what is switched on.
  leading = c.timestep_spacing == 'leading'
  return {
    'clip_sample_range': (1.0,) if c.clip_sample else '',
    'sample_max_value': (1.0,) if c.thresholding else '',
    'steps_offset': (0,) if leading else '',
    'set_alpha_to_one': (True,) if 'set_alpha_to_one' in config else '',
  }


def _schedule(c):
  if c.trained_betas is not None:
    betas = np.asarray(c.trained_betas, np.float64)
    if c.rescale_betas_zero_snr:
      betas = zero_terminal_snr(betas)
    return {'name': 'alphas', 'values': tuple((1.0 - betas).tolist())}
  name, steps = _BETAS[c.beta_schedule], c.num_train_timesteps
  schedule: dict[str, Any] = {'name': name, 'num_steps': steps}
  if name != 'cosine':
    schedule |= {'start': float(c.beta_start), 'end': float(c.beta_end)}
  if c.rescale_betas_zero_snr:
    return {'name': 'zero_terminal_snr', 'schedule': schedule}
  return schedule


def has_name(schedule: Mapping[str, Any]) -> bool:
  """Returns whether `write_config` takes the section of this schedule.

  Other schedules of betas are given as {'name': 'alphas', 'values': ...}.
  """
  if schedule['name'] == 'zero_terminal_snr':
    schedule = schedule['schedule']
  usual = {'s': 0.008, 'max_beta': 0.999}  # of cosine
  return schedule['name'] in _BETAS.values() and all(
    schedule.get(name, value) == value for name, value in usual.items()
  )


def write_config(sections: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the scheduler_config.json of a DDPMScheduler.

  sections: those of `read_sections`, and objective. Raises ValueError for what
  a DDPMScheduler cannot be.
  """
  schedule, sampling = sections['schedule'], sections['sampling']
  kinds = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
  names = {
    key: sections[key]['name']
    for key in ('schedule', 'parametrization', 'noise_input')
  }
  usual = schedule['name'] == 'alphas' or has_name(schedule)
  known = f'it has {", ".join(_BETAS.values())} and lists of betas'
  rescaled = schedule.get('num_steps') == 1000  # the same steps
  check('config', names, {
    'schedule': '' if usual else known,
    'parametrization': tuple(kinds),
    'noise_input': ('step', 'rescaled_step') if rescaled else ('step',),
  }, 'in diffusers')  # fmt: skip
  variances = {ours: theirs for theirs, ours in reversed(_VARIANCES.items())}
  variance = sampling['sampler'].get('variance', 'fixed_small')
  if sections['objective']['name'] in ('hybrid', 'vlb'):
    variance = 'learned'
  threshold = sampling.get('dynamic_threshold', 0.0)
  spacing = sampling.get('spacing')
  options = DDPM | {
    'prediction_type': kinds[names['parametrization']],
    'variance_type': variances[variance],
    'clip_sample': sampling.get('clip', True),
    'thresholding': threshold > 0.0,
    # our even steps begin at T, which is 'trailing'
    'timestep_spacing': spacing if spacing in _SPACINGS else 'trailing',
  }
  if threshold:
    options['dynamic_thresholding_ratio'] = threshold
  return options | _betas(schedule)


def _betas(schedule):
  if schedule['name'] == 'alphas':
    betas = 1.0 - np.asarray(schedule['values'], np.float64)
    return {'num_train_timesteps': len(betas), 'trained_betas': betas.tolist()}
  zero_snr = schedule['name'] == 'zero_terminal_snr'
  inner = schedule['schedule'] if zero_snr else schedule
  names = {ours: theirs for theirs, ours in _BETAS.items()}
  ends = {'beta_start': 'start', 'beta_end': 'end'}
  return {
    'num_train_timesteps': inner['num_steps'],
    'beta_schedule': names[inner['name']],
    'rescale_betas_zero_snr': zero_snr,
    **{n: inner[ours] for n, ours in ends.items() if ours in inner},
  }

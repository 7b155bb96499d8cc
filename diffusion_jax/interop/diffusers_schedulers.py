"""Schedulers of diffusers as fields of our configs, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.core.betas import zero_terminal_snr

# The options of DDPMScheduler with their defaults; DDIMScheduler has the same,
# but for variance_type, and set_alpha_to_one.
DDPM = {
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
# Other samplers of the same models: of these the trained schedule is read.
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


def read_fields(
  config: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns (fields, notes) of a scheduler_config.json.

  fields: {'section.field': value} of schedule, objective, conditioning and
  sampling; notes: sentences on what was not taken. Raises ValueError for an
  option that we do not have, with its value.
  """
  given = str(config.get('_class_name'))
  if given not in (*_SAMPLERS, *_SAME_MODELS):
    raise ValueError(
      f'the scheduler {given} is not here, but {", ".join(_SAMPLERS)} and '
      'others of models with betas'
    )
  c = DDPM | {n: x for n, x in config.items() if n in DDPM}
  notes = ()
  if given in _SAMPLERS:
    _check_sampling(given, config, c)
  else:
    c |= {n: DDPM[n] for n in ('variance_type', 'steps_offset')}
    notes = (
      f'{given} is a way to sample that is not taken: sampling is DDIM of '
      f'{_DDIM_STEPS} steps, any --config.sampling.sampler can be given',
    )
  if c['timestep_spacing'] not in _SPACINGS:
    raise ValueError(_unknown(given, c, 'timestep_spacing', _SPACINGS))
  sampler = _SAMPLERS.get(given, 'ddim')
  fields = _schedule_fields(given, c)
  fields |= {
    'objective.parametrization': _translate(
      given, c, 'prediction_type', _PREDICTIONS
    ),
    'conditioning.noise_input': 'step',
    'sampling.sampler': sampler,
    'sampling.num_steps': fields['schedule.num_steps']
    if sampler == 'ancestral'
    else _DDIM_STEPS,
    'sampling.spacing': c['timestep_spacing'],
    'sampling.variance': _translate(given, c, 'variance_type', _VARIANCES),
    'sampling.clip': bool(c['clip_sample']),
    'sampling.dynamic_threshold': float(c['dynamic_thresholding_ratio'])
    if c['thresholding']
    else 0.0,
  }
  return fields, notes


def write_config(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the scheduler_config.json of a DDPMScheduler.

  fields: as of `read_fields`; 'schedule.alphas' for schedules that diffusers
  has no name for. Raises ValueError for what a DDPMScheduler cannot be.
  """
  name, steps = fields['schedule.name'], fields['schedule.num_steps']
  alphas = fields.get('schedule.alphas')
  schedules = {ours: theirs for theirs, ours in _BETAS.items()}
  kinds = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
  kind = fields['objective.parametrization']
  if kind not in kinds:
    raise ValueError(
      f'objective.parametrization={kind}: diffusers has {", ".join(kinds)}'
    )
  if alphas is None and name not in schedules:
    raise ValueError(
      f'schedule.name={name}: diffusers has {", ".join(schedules)} and lists '
      'of betas'
    )
  noise = fields['conditioning.noise_input']
  if noise != 'step' and (noise, steps) != ('rescaled_step', 1000):
    raise ValueError(
      f'conditioning.noise_input={noise}: networks of diffusers see the step'
    )
  variances = {ours: theirs for theirs, ours in reversed(_VARIANCES.items())}
  threshold = fields.get('sampling.dynamic_threshold') or 0.0
  spacing = fields.get('sampling.spacing')
  found = DDPM | {
    'prediction_type': kinds[kind],
    'variance_type': variances[fields.get('sampling.variance', 'fixed_small')],
    'clip_sample': bool(fields.get('sampling.clip', True)),
    'thresholding': threshold > 0.0,
    # our even steps begin at T, which is 'trailing'
    'timestep_spacing': spacing if spacing in _SPACINGS else 'trailing',
  }
  if threshold:
    found['dynamic_thresholding_ratio'] = threshold
  if alphas is not None:
    betas = 1.0 - np.asarray(alphas, np.float64)
    return found | {
      'num_train_timesteps': len(betas),
      'trained_betas': betas.tolist(),
    }
  ends = {'beta_start': 'schedule.start', 'beta_end': 'schedule.end'}
  given = {n: fields[f] for n, f in ends.items() if fields.get(f) is not None}
  snr = bool(fields.get('schedule.zero_terminal_snr'))
  return found | given | {
    'num_train_timesteps': steps,
    'beta_schedule': schedules[name],
    'rescale_betas_zero_snr': snr,
  }  # fmt: skip


def _schedule_fields(given, c):
  zero_snr = bool(c['rescale_betas_zero_snr'])
  if c['trained_betas'] is not None:
    betas = np.asarray(c['trained_betas'], np.float64)
    if zero_snr:
      betas = zero_terminal_snr(betas)
    return {
      'schedule.num_steps': len(betas),
      'schedule.alphas': tuple((1.0 - betas).tolist()),
    }
  name = _translate(given, c, 'beta_schedule', _BETAS)
  fields = {
    'schedule.name': name,
    'schedule.num_steps': c['num_train_timesteps'],
  }
  if name != 'cosine':
    fields['schedule.start'] = float(c['beta_start'])
    fields['schedule.end'] = float(c['beta_end'])
  if zero_snr:
    fields['schedule.zero_terminal_snr'] = True
  return fields


def _check_sampling(given, config, c):
  # Raises ValueError for the options of sampling that we do not have.
  known = {*DDPM, 'set_alpha_to_one'}
  for option, value in config.items():
    if option not in known and not option.startswith('_') and value is not None:
      raise ValueError(f'{given}: {option}={value!r} is not here')
  wrong = {
    'clip_sample_range': c['clip_sample'] and c['clip_sample_range'] != 1.0,
    'sample_max_value': c['thresholding'] and c['sample_max_value'] != 1.0,
    'steps_offset': c['timestep_spacing'] == 'leading' and c['steps_offset'],
    'set_alpha_to_one': not config.get('set_alpha_to_one', True),
  }
  for option, is_wrong in wrong.items():
    if is_wrong:
      value = (c | dict(config))[option]
      raise ValueError(f'{given}: {option}={value!r} is not here')


def _translate(given, c, option, names):
  if c[option] not in names:
    raise ValueError(_unknown(given, c, option, names))
  return names[c[option]]


def _unknown(given, c, option, known):
  return f'{given}: {option}={c[option]!r} is not here, but {", ".join(known)}'

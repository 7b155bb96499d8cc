"""Schedulers of diffusers as sections of our configs, and back."""

from types import SimpleNamespace

import numpy as np

from diffusion_jax.core.step_schedules import zero_terminal_snr
from diffusion_jax.interop.options import Options, check, check_known, of_text
from diffusion_jax.interop.reader import Sections
from diffusion_jax.ranges import within

# The options of DDPMScheduler with their defaults. DDIMScheduler has the same,
# with set_alpha_to_one in place of variance_type.
DDPM = of_text("""
  _class_name=DDPMScheduler num_train_timesteps=1000 beta_start=1e-4 beta_end=0.02
  beta_schedule=linear trained_betas=None variance_type=fixed_small clip_sample=True
  prediction_type=epsilon thresholding=False dynamic_thresholding_ratio=0.995 clip_sample_range=1.0
  sample_max_value=1.0 timestep_spacing=leading steps_offset=0 rescale_betas_zero_snr=False
""")

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
  'fixed_small_log': 'fixed_small',  # the same number from its logarithm
  'fixed_large': 'fixed_large',
  'learned_range': 'learned',
}
_SPACINGS = ('leading', 'linspace', 'trailing')
_SAMPLERS = {'DDPMScheduler': 'ancestral', 'DDIMScheduler': 'ddim'}
# Other samplers of the same models: these options are read, with their
# defaults. First, what was trained.
_TRAINED: Options = {
  name: DDPM[name]
  for name in (
    'num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type'.split()
  )
}
_LINSPACE: Options = _TRAINED | {'timestep_spacing': 'linspace'}
_ZERO_SNR: Options = _LINSPACE | {'rescale_betas_zero_snr': False}
_RANGES = {'dynamic_thresholding_ratio': within('(0, 1]'), 'sample_max_value': within('(0, inf]')}
_THRESHOLD: Options = _LINSPACE | {name: DDPM[name] for name in ('thresholding', *_RANGES)}
_SAME_MODELS: dict[str, Options] = {
  'PNDMScheduler': _TRAINED | {'timestep_spacing': 'leading'},
  'DPMSolverMultistepScheduler': _THRESHOLD | _ZERO_SNR,
  'DPMSolverSinglestepScheduler': _THRESHOLD,
  'DEISMultistepScheduler': _THRESHOLD,
  'UniPCMultistepScheduler': _THRESHOLD | _ZERO_SNR | {'predict_x0': True},
  'EulerDiscreteScheduler': _ZERO_SNR,
  'EulerAncestralDiscreteScheduler': _ZERO_SNR,
  'HeunDiscreteScheduler': _LINSPACE
  | dict(beta_start=0.00085, beta_end=0.012, clip_sample=False, clip_sample_range=1.0),
  'LMSDiscreteScheduler': _LINSPACE,
}
_DDIM_STEPS = 50  # the default of DDIMPipeline
_LARGEST = float(np.finfo(np.float32).max)  # no bound: torch's clamp takes it


def read_sections(config: Options) -> tuple[Sections, tuple[str, ...]]:
  """Returns (sections, notes) of a scheduler_config.json.

  sections: schedule, noise_input, parametrization and sampling; notes:
  sentences on what was not taken. Raises ValueError for an option without a
  counterpart, with its value.
  """
  given = str(config.get('_class_name'))
  classes = (*_SAMPLERS, *_SAME_MODELS)
  check('diffusers', {'scheduler': given}, {'scheduler': classes})
  own = _SAME_MODELS.get(given, DDPM)
  # Options that a class lacks are off.
  off = {**DDPM, 'clip_sample': False, 'predict_x0': True}
  c = SimpleNamespace(**off | {n: config.get(n, x) for n, x in own.items()})
  if c.sample_max_value is None:
    c.sample_max_value = float('inf')
  _check(given, config, c)
  sampler: Sections = {'name': _SAMPLERS.get(given, 'ddim')}
  total = len(c.trained_betas or ()) or c.num_train_timesteps
  num_steps = min(_DDIM_STEPS, total)
  if sampler['name'] == 'ancestral':
    sampler['variance'] = _VARIANCES[c.variance_type]
    num_steps = total
  thresholded = c.thresholding and c.predict_x0
  # Their quantile is clamped to [1, 1] by default: x_0 is clipped.
  dynamic = bool(thresholded and c.sample_max_value != 1.0)
  bounded = dynamic and c.sample_max_value < _LARGEST
  bound: Sections | None = {'name': 'clip'} if thresholded or c.clip_sample else None
  if dynamic:
    largest = c.sample_max_value if bounded else None
    bound = {'name': 'quantile', 'quantile': c.dynamic_thresholding_ratio, 'largest': largest}
  return {
    'schedule': _schedule(c),
    'noise_input': {'name': 'step'},
    'parametrization': {'name': _PREDICTIONS[c.prediction_type]},
    'sampling': {
      'sampler': sampler,
      'grid': {'number': num_steps, 'spacing': c.timestep_spacing},
      'bound': bound,
    },
  }, tuple(_notes(given, config, c, total, num_steps))


def _notes(given, config, c, total, num_steps):
  if given in _SAME_MODELS:
    read = _SAME_MODELS[given]
    rest = [n for n in config if not n.startswith('_') and n not in read]
    yield (
      f'{given} is not read as a sampler: sampling is DDIM with {num_steps} '
      'steps, which --config.sampling.sampler changes'
      + (f'; not read: {", ".join(rest)}' if rest else '')
    )
  if given == 'DDIMScheduler' and (c.clip_sample or c.thresholding):
    yield (
      'DDIMScheduler keeps the eps of x_0 before it is clipped; here eps is '
      'that of the clipped x_0, as with use_clipped_model_output=True'
    )
  spacing, some = c.timestep_spacing, num_steps < total
  uneven = some and spacing == 'linspace' or total % num_steps
  if given == 'DDIMScheduler' and uneven and spacing != 'leading':
    yield (
      f'timestep_spacing={spacing}: steps of DDIMScheduler end '
      f'{total // num_steps} lower, here where the next one begins'
    )


def _check(given, config, c):
  known = {
    'beta_schedule': tuple(_BETAS) if c.trained_betas is None else '',
    'prediction_type': tuple(_PREDICTIONS),
    'variance_type': tuple(_VARIANCES),
    'timestep_spacing': _SPACINGS,
  }
  # Options that nothing uses may have any value.
  if given in _SAMPLERS:
    check_known(
      given,
      (*DDPM, 'set_alpha_to_one'),
      [n for n, x in config.items() if not n.startswith('_') and x is not None],
    )
    leading = c.timestep_spacing == 'leading'
    known |= {
      'steps_offset': (0,) if leading else '',
      'set_alpha_to_one': (True,) if 'set_alpha_to_one' in config else '',
    }
  else:  # They change what the network is given.
    usual = {'use_flow_sigmas': False, 'timestep_type': 'discrete'}
    known |= {n: (x,) for n, x in usual.items() if n in config}
  if c.thresholding:
    for name, rule in _RANGES.items():
      if not rule.holds(vars(c)[name]):
        known[name] = f'it must be {rule.text}'
  elif c.clip_sample:
    known['clip_sample_range'] = (1.0,)
  if c.trained_betas is not None and 'num_train_timesteps' in config:
    known['num_train_timesteps'] = (len(c.trained_betas),)
  check(given, {**config, **vars(c)}, known)


def _schedule(c):
  if c.trained_betas is not None:
    betas = np.asarray(c.trained_betas, np.float64)
    if c.rescale_betas_zero_snr:
      betas = zero_terminal_snr(betas)
    return {'name': 'alphas', 'values': tuple((1.0 - betas).tolist())}
  name, steps = _BETAS[c.beta_schedule], c.num_train_timesteps
  schedule: Sections = {'name': name, 'num_steps': steps}
  if name != 'cosine':
    schedule |= {'start': float(c.beta_start), 'end': float(c.beta_end)}
  if c.rescale_betas_zero_snr:
    return {'name': 'zero_terminal_snr', 'schedule': schedule}
  return schedule


def has_name(schedule: Sections) -> bool:
  """Returns whether diffusers has this schedule of betas by name.

  `write_config` takes others as {'name': 'alphas', 'values': ...}.
  """
  if schedule['name'] == 'zero_terminal_snr':
    schedule = schedule['schedule']
  usual = {'s': 0.008, 'max_beta': 0.999}  # the defaults of our cosine schedule
  return schedule['name'] in _BETAS.values() and all(
    schedule.get(name, value) == value for name, value in usual.items()
  )


def write_config(sections: Sections) -> Options:
  """Returns the scheduler_config.json of a DDPMScheduler.

  sections: as from `read_sections`, and objective. Raises ValueError for
  values without a counterpart there.
  """
  schedule, sampling = sections['schedule'], sections['sampling']
  kinds = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
  names = {key: sections[key]['name'] for key in ('schedule', 'parametrization', 'noise_input')}
  usual = schedule['name'] == 'alphas' or has_name(schedule)
  known = f'it can be {", ".join(_BETAS.values())}, or a list of betas'
  rescaled = schedule.get('num_steps') == 1000  # the same steps
  check(
    'config',
    names,
    {
      'schedule': '' if usual else known,
      'parametrization': tuple(kinds),
      'noise_input': ('step', 'rescaled_step') if rescaled else ('step',),
    },
    'in diffusers',
  )
  variances = {ours: theirs for theirs, ours in reversed(_VARIANCES.items())}
  variance = sampling['sampler'].get('variance', 'fixed_small')
  if sections['objective']['name'] in ('hybrid', 'vlb'):
    variance = 'learned'
  bound, threshold = sampling.get('bound', {'name': 'clip'}), {}
  ratio = (bound or {}).get('quantile')
  if ratio:
    threshold = {
      'thresholding': True,
      'dynamic_thresholding_ratio': ratio,
      'sample_max_value': bound['largest'] or _LARGEST,
    }
  spacing = sampling.get('grid', {}).get('spacing')
  return {**DDPM, **threshold, **_betas(schedule)} | {
    'prediction_type': kinds[names['parametrization']],
    'variance_type': variances[variance],
    'clip_sample': bound is not None,
    # Our even steps begin at T, as 'trailing' ones do.
    'timestep_spacing': spacing if spacing in _SPACINGS else 'trailing',
  }


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

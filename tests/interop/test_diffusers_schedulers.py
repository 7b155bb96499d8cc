"""Configs of diffusers' schedulers as sections of a config."""

import re

import pytest

from diffusion_jax.interop import diffusers, diffusers_schedulers
from tests import refusals
from tests.interop.stored_folders import SCHEDULER, STORED, folder_with


def test_the_scheduler_of_ddpm_cifar10():
  sections = diffusers.load(STORED / 'ho').sections
  schedule = {'name': 'linear', 'num_steps': 1000, 'start': 1e-4, 'end': 0.02}
  assert sections['schedule'] == schedule
  assert sections['sampling']['sampler'] == {'name': 'ancestral', 'variance': 'fixed_large'}
  assert sections['sampling']['bound'] == {'name': 'clip'}
  assert sections['parametrization'] == {'name': 'eps'}
  assert sections['network']['noise_embedding'] == 'ho'
  assert sections['network']['downsample_padding'] == 'same'


def test_a_missing_scheduler_is_said():
  found = diffusers.load(STORED / 'labels')
  assert 'there is no scheduler_config.json' in found.notes[0]
  assert found.sections['sampling']['sampler']['variance'] == 'fixed_small'


DPM, EPS = 'DPMSolverMultistepScheduler', 'DDIMScheduler keeps the eps of x_0'
UNREAD = 'not read as a sampler'
DYNAMIC = {'thresholding': True, 'dynamic_thresholding_ratio': 0.9}
LINSPACE = {'clip_sample': False, 'timestep_spacing': 'linspace'}


def dynamic(largest):
  return DYNAMIC | {'sample_max_value': largest}


# (class, options, how x_0 is bounded: clip, quantile, largest value, a note).
READ = [
  ('DDPMScheduler', {}, (True, 0.0, None), ''),
  ('DDPMScheduler', {'clip_sample': False}, (False, 0.0, None), ''),
  ('DDPMScheduler', DYNAMIC, (True, 0.0, None), ''),
  ('DDPMScheduler', dynamic(1.5), (True, 0.9, 1.5), ''),
  ('DDPMScheduler', dynamic(0.5), (True, 0.9, 0.5), ''),
  ('DDPMScheduler', dynamic(None), (True, 0.9, None), ''),
  ('DDPMScheduler', dynamic(1e39), (True, 0.9, None), ''),
  ('DDIMScheduler', dynamic(2.0), (True, 0.9, 2.0), EPS),
  ('DDIMScheduler', LINSPACE, (False, 0.0, None), 'timestep_spacing=linspace: steps of DDIM'),
  # They never clip; a file may have the option from another class.
  ('PNDMScheduler', {'clip_sample': True}, (False, 0.0, None), 'clip_sample'),
  ('EulerDiscreteScheduler', DYNAMIC, (False, 0.0, None), 'thresholding'),
  ('LMSDiscreteScheduler', {}, (False, 0.0, None), UNREAD),
  ('HeunDiscreteScheduler', {}, (False, 0.0, None), UNREAD),
  ('HeunDiscreteScheduler', {'clip_sample': True}, (True, 0.0, None), 'Heun'),
  (DPM, {'solver_order': 3}, (False, 0.0, None), 'DDIM with 50 steps.*not read: solver_order'),
  (DPM, dynamic(1.5), (True, 0.9, 1.5), 'DDIM with'),
  ('DEISMultistepScheduler', dynamic(1.5), (True, 0.9, 1.5), UNREAD),
  ('UniPCMultistepScheduler', dynamic(1.5), (True, 0.9, 1.5), UNREAD),
  ('UniPCMultistepScheduler', DYNAMIC | {'predict_x0': False}, (False, 0.0, None), UNREAD),
]


@pytest.mark.parametrize('kind, options, bound, note', READ)
def test_what_is_read_of_a_scheduler(kind, options, bound, note):
  sections, notes = diffusers_schedulers.read_sections({'_class_name': kind, **options})
  sampling = sections['sampling']
  is_bounded, quantile, largest = bound
  expected = {'name': 'quantile', 'quantile': quantile, 'largest': largest}
  expected = expected if quantile else {'name': 'clip'}
  assert sampling['bound'] == (expected if is_bounded else None)
  assert len(notes) == bool(note) and re.search(note, ''.join(notes))
  sections |= {'objective': {'name': 'denoising'}}
  again, _ = diffusers_schedulers.read_sections(diffusers_schedulers.write_config(sections))
  assert again['sampling']['bound'] == sampling['bound']


def test_defaults_are_those_of_the_class():
  heun, _ = diffusers_schedulers.read_sections(
    {'_class_name': 'HeunDiscreteScheduler', 'num_train_timesteps': 20}
  )
  assert heun['schedule'] == {'name': 'linear', 'num_steps': 20, 'start': 0.00085, 'end': 0.012}
  assert heun['sampling']['grid'] == {'number': 20, 'spacing': 'linspace'}  # not 50
  for options in {'use_flow_sigmas': True}, {'timestep_type': 'continuous'}:
    with pytest.raises(ValueError, match=f'{[*options][0]}=.* has no counterp'):
      diffusers_schedulers.read_sections({'_class_name': DPM, **options})


THRESHOLD = {'thresholding': True, 'dynamic_thresholding_ratio': 0.0}
THREE = {'trained_betas': [0.1, 0.2], 'num_train_timesteps': 3}


WRONG = """
_class_name='KarrasVeScheduler' => scheduler='KarrasVeScheduler' has no counterpart
beta_schedule='laplace' => beta_schedule='laplace' has no counterpart
prediction_type='flow' => prediction_type='flow' has no counterpart
clip_sample_range=2.0 => clip_sample_range=2.0 has no counterpart
variance_type='learned' => variance_type='learned' has no counterpart
steps_offset=1 => steps_offset=1 has no counterpart
variance_type='learned_range' => learned_range has twice the channel
**dynamic(-1.0) => sample_max_value=-1.0 has no counterpart here: it must be a number in
**THRESHOLD => dynamic_thresholding_ratio=0.0 has no ... a number in (0, 1]
**THREE => num_train_timesteps=3 has no counterpart here: it can be 2
brand_new=3 => unknown options of DDPMScheduler: brand_new; k
"""


@pytest.mark.parametrize('error, changes, message', [*refusals.rows(ValueError, WRONG)])
def test_what_we_lack_is_refused_by_name(tmp_path, error, changes, message):
  with refusals.one_line(error=error, match=message):
    diffusers.load(folder_with(tmp_path, 'ho', SCHEDULER, **eval(f'dict({changes})')))

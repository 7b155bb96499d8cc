"""Configs of diffusers' schedulers as sections of a config."""

import re
from ast import literal_eval

import pytest

from diffusion_jax.interop import diffusers, diffusers_schedulers
from diffusion_jax.interop.options import of_text
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


DYNAMIC = 'thresholding=True dynamic_thresholding_ratio=0.9'
# class and options => how x_0 is bounded; what a note says
READ = """
DDPMScheduler => clip
DDPMScheduler clip_sample=False => None
DDPMScheduler DYNAMIC => clip
DDPMScheduler DYNAMIC sample_max_value=1.5 => 0.9,1.5
DDPMScheduler DYNAMIC sample_max_value=0.5 => 0.9,0.5
DDPMScheduler DYNAMIC sample_max_value=None => 0.9,None
DDPMScheduler DYNAMIC sample_max_value=1e39 => 0.9,None
DDIMScheduler DYNAMIC sample_max_value=2.0 => 0.9,2.0; DDIMScheduler keeps the eps of x_0
DDIMScheduler clip_sample=False timestep_spacing=linspace => None; =linspace: steps of DDIM
# They never clip; a file may have the option from another class.
PNDMScheduler clip_sample=True => None; clip_sample
EulerDiscreteScheduler DYNAMIC => None; thresholding
LMSDiscreteScheduler => None; not read as a sampler
HeunDiscreteScheduler => None; not read as a sampler
HeunDiscreteScheduler clip_sample=True => clip; Heun
DPMSolverMultistepScheduler solver_order=3 => None; DDIM with 50 steps.*not read: solver_order
DPMSolverMultistepScheduler DYNAMIC => clip; DDIM with
DPMSolverMultistepScheduler DYNAMIC sample_max_value=1.5 => 0.9,1.5; DDIM with
DEISMultistepScheduler DYNAMIC sample_max_value=1.5 => 0.9,1.5; not read as a sampler
UniPCMultistepScheduler DYNAMIC sample_max_value=1.5 => 0.9,1.5; not read as a sampler
UniPCMultistepScheduler DYNAMIC predict_x0=False => None; not read as a sampler
"""


@pytest.mark.parametrize('row', [x for x in READ.strip().splitlines() if x[0] != '#'])
def test_what_is_read_of_a_scheduler(row):
  given, found = row.replace('DYNAMIC', DYNAMIC).split(' => ')
  (kind, _, options), (bound, _, note) = given.partition(' '), found.partition('; ')
  config = {'_class_name': kind, **of_text(options)}
  sections, notes = diffusers_schedulers.read_sections(config)
  expected = {'clip': {'name': 'clip'}, 'None': None}.get(bound, 0)
  if expected == 0:
    quantile, largest = literal_eval(bound)
    expected = {'name': 'quantile', 'quantile': quantile, 'largest': largest}
  assert sections['sampling']['bound'] == expected
  assert len(notes) == bool(note) and re.search(note, ''.join(notes))
  sections |= {'objective': {'name': 'denoising'}}
  again, _ = diffusers_schedulers.read_sections(diffusers_schedulers.write_config(sections))
  assert again['sampling']['bound'] == expected


def test_defaults_are_those_of_the_class():
  heun, _ = diffusers_schedulers.read_sections(
    {'_class_name': 'HeunDiscreteScheduler', 'num_train_timesteps': 20}
  )
  assert heun['schedule'] == {'name': 'linear', 'num_steps': 20, 'start': 0.00085, 'end': 0.012}
  assert heun['sampling']['grid'] == {'number': 20, 'spacing': 'linspace'}  # not 50
  for options in {'use_flow_sigmas': True}, {'timestep_type': 'continuous'}:
    with pytest.raises(ValueError, match=f'{[*options][0]}=.* has no counterp'):
      diffusers_schedulers.read_sections({'_class_name': 'DPMSolverMultistepScheduler', **options})


WRONG = [
  (dict(_class_name='KarrasVeScheduler'), "scheduler='KarrasVeScheduler' has no counterpart"),
  (dict(beta_schedule='laplace'), "beta_schedule='laplace' has no counterpart"),
  (dict(prediction_type='flow'), "prediction_type='flow' has no counterpart"),
  (dict(clip_sample_range=2.0), 'clip_sample_range=2.0 has no counterpart'),
  (dict(variance_type='learned'), "variance_type='learned' has no counterpart"),
  (dict(steps_offset=1), 'steps_offset=1 has no counterpart'),
  (dict(variance_type='learned_range'), 'learned_range has twice the channel'),
  (
    dict(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=-1.0),
    'sample_max_value=-1.0 has no counterpart here: it must be a number in',
  ),
  (
    dict(thresholding=True, dynamic_thresholding_ratio=0.0),
    'dynamic_thresholding_ratio=0.0 has no ... a number in (0, 1]',
  ),
  (
    dict(trained_betas=[0.1, 0.2], num_train_timesteps=3),
    'num_train_timesteps=3 has no counterpart here: it can be 2',
  ),
  (dict(brand_new=3), 'unknown options of DDPMScheduler: brand_new; k'),
]


@pytest.mark.parametrize('error, changes, message', [*refusals.rows(ValueError, WRONG)])
def test_what_we_lack_is_refused_by_name(tmp_path, error, changes, message):
  with refusals.one_line(error=error, match=message):
    diffusers.load(folder_with(tmp_path, 'ho', SCHEDULER, **changes))

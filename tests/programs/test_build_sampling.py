"""config.sampling -> levels, and one line for what cannot be had."""

import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import diffusion_jax as dj
from diffusion_jax.programs import UserError, build
from diffusion_jax.programs.build_sampling import build_levels
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES
from tests.programs.conftest import smoke

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))


@pytest.mark.parametrize('spacing', SPACINGS | STEP_CHOICES)
def test_every_spacing(spacing):
  config = smoke(**{'sampling.spacing': spacing, 'sampling.num_steps': 10})
  found = build_levels(config, DDPM)
  np.testing.assert_array_equal(found, dj.level_grid(DDPM, 10, spacing))


@pytest.mark.parametrize('spec', ['250', '10,15,20', 'ddim50'])
def test_respacing_wins(spec):
  config = smoke(**{'sampling.respacing': spec, 'sampling.spacing': 'karras'})
  found = build_levels(config, DDPM)
  expected = dj.step_levels(DDPM, dj.respaced_steps(1000, spec))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('spec', ['250', '10,15,20', 'ddim50'])
def test_a_respacing_can_be_typed(spec, monkeypatch):
  override = f'--config.sampling.respacing={spec}'
  argv = ['launch.py', '--config=configs/digits.py', override]
  monkeypatch.setattr(sys, 'argv', argv)  # where ml_collections looks
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  values(argv)
  assert values.config.sampling.respacing == spec


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'spacing': 'log'}, "spacing 'log' is not one of 'uniform', 'steps', "),
    ({'spacing': 'steps', 'num_steps': 1001}, '1001 steps do not fit on the'),
    ({'respacing': 'ddim300'}, 'no integer stride through 1000 steps'),
    ({'respacing': 'fast'}, "'fast' does not say which steps to keep"),
    ({'respacing': '10,501'}, '501 steps do not fit in a section of 500'),
  ],
)
def test_what_does_not_fit_is_one_line(fields, message):
  config = smoke(
    **{f'sampling.{name}': value for name, value in fields.items()}
  )
  with pytest.raises(UserError, match=f'config.sampling: {message}') as error:
    build_levels(config, build.build_schedule(config))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('field', ['spacing', 'respacing'])
def test_steps_need_a_schedule_of_steps(field):
  value = 'trailing' if field == 'spacing' else 'ddim50'
  config = smoke(
    **{f'sampling.{field}': value, 'schedule.name': 'continuous_cosine'}
  )
  message = f'config.sampling: {field}.* needs a schedule of steps'
  with pytest.raises(UserError, match=message):
    build_levels(config, build.build_schedule(config))

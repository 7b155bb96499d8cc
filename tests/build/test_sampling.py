"""config.sampling -> levels, and one line for what cannot be had."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build import sampling
from diffusion_jax.build.sampling import build_levels
from diffusion_jax.errors import UserError
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES
from tests.programs.conftest import unet_smoke as smoke

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))


@pytest.mark.parametrize('spacing', SPACINGS | STEP_CHOICES)
def test_every_spacing(spacing):
  config = smoke(**{'sampling.spacing': spacing, 'sampling.num_steps': 10})
  found, expected = jax.jit(
    lambda: (build_levels(config, DDPM), dj.level_grid(DDPM, 10, spacing))
  )()
  np.testing.assert_array_equal(found, expected)


def test_more_levels_than_steps_are_noted():
  """They are allowed: levels between steps are levels too."""
  many = {'sampling.num_steps': 5000}
  assert build.describe_steps(smoke(**many)) == (
    'note: sampling.num_steps=5000 is more than the 1,000 steps of the '
    'schedule: 1,000 distinct steps are visited, and 4,000 levels between steps'
  )
  for changes in (
    {'sampling.num_steps': 1000},
    many | {'sampling.respacing': '250'},
    many | {'sampling.schedule': 'flow'},
    many | {'schedule.name': 'learned'},
  ):
    assert not build.describe_steps(smoke(**changes))


@pytest.mark.parametrize('spec', ['250', '10,15,20', 'ddim50'])
def test_respacing_wins(spec):
  config = smoke(**{'sampling.respacing': spec, 'sampling.spacing': 'karras'})
  steps = dj.respaced_steps(1000, spec)
  found, expected = jax.jit(
    lambda: (build_levels(config, DDPM), dj.step_levels(DDPM, steps))
  )()
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


# A flow map's network is no denoiser: tests/app/models/test_flow_map.py.
@pytest.mark.parametrize('name', sorted({*sampling.SAMPLERS} - {'flow_map'}))
def test_every_sampler_samples(name):
  """One step of each, with churn and a corrector where they are allowed."""
  fields = {'sampling.sampler': name, 'sampling.langevin_steps': 2}
  remembers = name in ('dpm_solver_pp', 'dpm_solver_pp_sde', 'unipc')
  if not remembers:
    fields |= {'sampling.churn': 1.0, 'sampling.corrector_steps': 1}
  schedule = dj.LinearVPSchedule()
  sampler = build.build_sampler(smoke(**fields), schedule)
  levels = dj.level_grid(schedule, 4).take(slice(1, 3))

  def denoise(x, level):
    return dj.Prediction(0.5 * x)

  found = dj.sample(
    jax.random.key(0), denoise, sampler, levels, jnp.ones((2, 3))
  )
  assert np.isfinite(found).all()
  if remembers:
    for more in ({'sampling.churn': 1.0}, {'sampling.corrector_steps': 1}):
      with pytest.raises(UserError, match=f'{name} uses earlier steps'):
        build.build_sampler(smoke(**fields, **more), schedule)


def test_fields_of_samplers_reach_them():
  levels = dj.level_grid(dj.LinearVPSchedule(), 4).take(slice(0, 4))
  x = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3)

  def denoise(x, level):
    return dj.Prediction(jnp.tanh(x))

  @functools.cache
  def made(**fields):
    config = smoke(**{f'sampling.{k}': v for k, v in fields.items()})
    sampler = build.build_sampler(config, dj.LinearVPSchedule())
    sample = jax.jit(
      lambda: dj.sample(jax.random.key(0), denoise, sampler, levels, x)
    )
    return np.asarray(sample())

  heun = {'sampler': 'heun', 'churn': 1.0}
  annealed = {'sampler': 'annealed_langevin', 'langevin_steps': 2}
  solver = {'sampler': 'dpm_solver_pp'}
  corrected = {'sampler': 'ddim', 'corrector_steps': 1}
  for before, change in [
    (solver, {'order': 3}),
    ({'sampler': 'unipc'}, {'order': 1}),
    ({'sampler': 'dpm_solver_pp_sde'}, {'eta': 0.5}),
    (annealed, {'langevin_steps': 3}),
    (annealed, {'langevin_step_size': 0.1}),
    (corrected, {'corrector_steps': 2}),
    (corrected, {'corrector_snr': 0.1}),
    (heun, {'churn': 0.5}),
    (heun, {'churn_min': 10.0}),
    (heun, {'churn_max': 10.0}),
    (heun, {'churn_noise': 1.1}),
  ]:
    assert np.abs(made(**before) - made(**(before | change))).max() > 1e-3, (
      change
    )


@pytest.mark.parametrize('name', sampling.SCHEDULES)
def test_the_levels_of_every_schedule_may_be_visited(name):
  config = smoke(**{'sampling.schedule': name, 'schedule.beta_min': 3.0})
  if name == 'learned':
    with pytest.raises(UserError, match="schedule='learned' is not one of"):
      build.build_sampling_schedule(config, DDPM)
    return
  schedule = build.build_sampling_schedule(config, DDPM)
  t = jnp.linspace(0.0, 1.0, 5)
  level = jax.jit(schedule.__call__)(t)
  assert np.isfinite(level.alpha).all() and (np.diff(level.sigma) > 0).all()
  if name == 'linear_vp':  # its own default, not the run's
    expected = jax.jit(dj.LinearVPSchedule().__call__)(t)
    np.testing.assert_array_equal(level, expected)
  nothing = smoke(**{'sampling.schedule': ''})
  assert build.build_sampling_schedule(nothing, DDPM) is DDPM

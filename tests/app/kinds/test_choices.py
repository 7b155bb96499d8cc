"""Every name of every table makes its object, and its parameters reach it."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices, store
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES
from tests.app.conftest import read, refused
from tests.jitted import level_grid

LINE = {'bias': -13.3, 'weight': 18.3}  # of the learned schedule


def model_of(*flags, name='digits') -> Any:
  flags = [flag.split('=', 1) for flag in flags]
  return make_model(store.with_flags(read(name), flags), RunFolder.at('x'))


def schedule_of(name, *flags):
  flags = [f'schedule.{flag}' for flag in flags]
  if name == 'alphas' and not flags:
    flags = ['schedule.values=0.9,0.8,0.5']
  if name == 'shifted' and not flags:
    flags = ['schedule.shift=2']
  model = model_of(f'schedule={name}', *flags)
  return model.noisy.schedule({'schedule': LINE})


def test_every_schedule():
  t = jnp.linspace(0.0, 1.0, 5)
  schedules = {name: schedule_of(name) for name in choices.SCHEDULES}
  levels = jax.jit(lambda: {n: f(t) for n, f in schedules.items()})()
  for name, level in levels.items():
    assert np.isfinite(level.alpha).all(), name
    assert (np.diff(level.sigma) > 0).all(), name


def test_explicit_alphas_count_the_steps():
  noisy = model_of('schedule=alphas', 'schedule.values=0.9,0.8,0.7').noisy

  @jax.jit
  def alphas_and_steps():
    schedule = noisy.schedule()
    levels = schedule.at_step(np.arange(4))
    return schedule.alphas, noisy.process.noise_input(levels)

  alphas, steps = alphas_and_steps()
  assert_allclose(alphas, [0.9, 0.8, 0.7], rtol=1e-6)
  assert_array_equal(steps, [0, 0, 1, 2])


def test_what_a_network_sees_of_a_level():
  """100 steps have these two ends, or sigma / alpha = 1 / 3."""
  of_ends = {'step': (0, 99), 'rescaled_step': (0, 990), 'time': (0, 1000)}
  of_level = {
    'time noise_input.scale=9': 2.25,
    'log_sigma': -math.log(3),
    'edm': -math.log(3) / 4,
    'logsnr': 2 * math.log(3),
  }

  def inputs(names):
    flags = [f'schedule.num_steps=100 noise_input={x}'.split() for x in names]
    return [model_of(*each).noisy.process.noise_input for each in flags]

  @jax.jit
  def seen():
    ends = dj.NoiseLevel(np.float32([0, 1]), None, None)
    level = dj.RectifiedFlowSchedule()(0.25)
    found = [f(ends) for f in inputs(of_ends)]
    return found + [f(level) for f in inputs(of_level)]

  expected = [*of_ends.values(), *of_level.values()]
  for found, value in zip(seen(), expected, strict=True):
    assert_allclose(found, value, rtol=1e-6)


def section(path, name):
  """Returns the complete section of a choice, in the config digits."""
  config = store.with_flags(read('digits'), [(path, name)])
  for key in path.split('.'):
    config = config[key]
  return config


@pytest.mark.parametrize('name', choices.TIMES)
def test_every_distribution_of_times(name, key):
  times, draw = section('objective.times', name), dj.step_times(10)
  if name != 'steps':
    draw = times.make()
  level, weight = jax.jit(lambda k: draw(k, 64, dj.LinearVPSchedule()))(key)
  assert level.t.shape == weight.shape == (64,)
  assert 0 <= level.t.min() and level.t.max() <= 1
  if name == 'steps':
    assert_allclose(10 * level.t, np.rint(10 * level.t), atol=1e-5)


def test_every_weight():
  facts = {'edm': {'sigma_data': 0.5}}
  weights = {
    name: section('objective.weight', name).make(facts.get(name, {})) for name in choices.WEIGHTS
  }
  level = dj.LinearVPSchedule()
  of = jax.jit(lambda t: {name: f(level(t)) for name, f in weights.items()})
  for name, weight in of(np.float32([0.1, 0.9])).items():
    assert weight.shape == (2,) and (weight > 0).all(), name


def test_the_weight_of_edm_has_the_networks_sigma_data(monkeypatch):
  seen = []

  def weight(sigma_data: float):
    seen.append(sigma_data)
    return dj.edm_weight(sigma_data)

  monkeypatch.setitem(choices.WEIGHTS, 'edm', weight)
  model_of('parametrization.sigma_data=0.9', name='digits_edm').objective()
  assert seen == [0.9]


# -- sampling ------------------------------------------------------------------

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))


def levels_of(*flags):
  return diffusion.levels_of(model_of(*flags).config.sampling.make().grid, DDPM)


def test_every_spacing_and_respacing():
  equal = functools.partial(assert_allclose, rtol=1e-6)

  @jax.jit
  def both():
    pairs = []
    for spacing in (*SPACINGS, *STEP_CHOICES):
      flags = f'sampling.grid.spacing={spacing}', 'sampling.num_steps=10'
      pairs.append((levels_of(*flags), dj.level_grid(DDPM, 10, spacing)))
    for spec in ('250', '10,15,20', 'ddim50'):
      flags = 'sampling.grid=respaced', f'sampling.grid.steps={spec}'
      steps = dj.respaced_steps(1000, spec)
      pairs.append((levels_of(*flags), dj.step_levels(DDPM, steps)))
    return pairs

  for found, expected in both():
    jax.tree.map(equal, found, expected)


@pytest.mark.parametrize('name', choices.SAMPLERS)
def test_every_sampler_can_be_traced(name):
  """Each sampler takes one step, with churn and a corrector if it allows them."""
  said = declared_by(choices.SAMPLERS[name])
  is_paired, stochastic = said.takes_pairs, said.draws_noise or name == 'ddim'  # with eta = 1
  flags = [f'sampling.sampler={name}', 'schedule=linear_vp']
  flags += ['sampling.sampler.scale=0.5'] * is_paired
  plan = model_of(*flags).plan()
  remembers = bool(jax.tree.leaves(jax.eval_shape(plan.sampler.init, np.ones((2, 3), np.float32))))
  more = ['sampling.churn.s_churn=1', *['sampling.corrector.steps=1'] * (not is_paired)]
  noise = 'sampling.ancestral_noise.eta=1'
  more += [] if stochastic else [noise]
  for flag in more if remembers else ():
    with pytest.raises(UserError, match=f'{name} uses earlier steps'):
      model_of(*flags, flag).plan()
  if stochastic and not remembers:
    with pytest.raises(UserError, match=f'{name} draws noise already'):
      model_of(*flags, noise).plan()
  model = model_of(*flags, *([] if remembers else more))
  schedule, _, sampler, *_ = model.plan()
  one = lambda x, level: dj.Prediction(0.5 * x)
  denoise = dj.paired(one, one) if is_paired else one

  def sample(key, x):
    levels = dj.level_grid(schedule, 4).take(slice(1, 3))
    return dj.sample(key, denoise, sampler, levels, x)

  x = np.ones((2, 3), np.float32)
  assert jax.eval_shape(sample, jax.random.key(0), x).shape == x.shape


def test_the_fields_of_sampling_around_a_sampler_reach_it():
  """A field changes the traced program; without a change it is the same."""
  levels = jax.device_get(level_grid(dj.LinearVPSchedule(), 4)).take(slice(4))
  denoise = lambda x, level: dj.Prediction(jnp.tanh(x))

  def program(*flags):
    flags = [f'sampling.{flag}' for flag in flags]
    sampler = model_of('schedule=linear_vp', *flags).plan().sampler
    sample = lambda key, x: dj.sample(key, denoise, sampler, levels, x)
    traced = jax.make_jaxpr(sample)(jax.random.key(0), np.ones((2, 3), 'f4'))
    text = re.sub(' at 0x[0-9a-f]+', '', str(traced.jaxpr))
    return text, [np.asarray(x).tobytes() for x in traced.consts]

  cases = {
    ('sampler=unipc',): ['sampler.order=1'],
    ('sampler=heun', 'ancestral_noise.eta=1'): ['ancestral_noise.eta=0.5'],
    ('sampler=ddim', 'corrector.steps=1'): ['corrector.snr=0.1'],
    ('sampler=heun', 'churn.s_churn=20', 'num_steps=4'): ['churn.s_min=10', 'churn.s_noise=1.1'],
  }
  for flags, changes in cases.items():
    before = program(*flags)
    assert before == program(*flags)
    for change in changes:
      others = [flag for flag in flags if flag.split('=')[0] != change.split('=')[0]]
      assert before != program(*others, change), change


@pytest.mark.parametrize('name', ['linear', 'karras'])
def test_the_levels_of_another_schedule_may_be_visited(name):
  """A schedule of sampling has its own defaults, not the parameters of the run's schedule."""
  flags = 'schedule=linear', 'schedule.end=0.01', f'sampling.schedule={name}'
  expected = {'linear': lambda: DDPM, 'karras': dj.KarrasSchedule}[name]()
  model, t = model_of(*flags), np.linspace(0.0, 1.0, 5, dtype=np.float32)
  both = jax.jit(lambda: (model.plan().schedule(t), expected(t)))()
  jax.tree.map(assert_array_equal, *both)
  assert model_of('sampling.num_steps=9').config.sampling.schedule is None


# -- learned schedules ---------------------------------------------------------


@pytest.mark.parametrize('gamma', ['scalar', 'network', 'fixed'])
def test_every_gamma_is_its_line_before_training(gamma, key):
  flags = f'gamma={gamma}', 'gamma_min=-6', 'gamma_max=4'
  model = model_of(*[f'schedule.{x}' for x in flags], name='digits_vdm')
  module = model.noisy.process.schedule.gamma_fn.module

  @jax.jit
  def first(key):
    params = module.init(key, jnp.zeros(1)).get('params', {})
    schedule = model.noisy.schedule({'schedule': params})
    return params, schedule(np.float32([0.0, 0.5, 1.0])).logsnr

  params, logsnr = first(key)
  assert model.noisy.process.is_learned == (gamma != 'fixed') == bool(params)
  # the small random part of 'network' is far below a tenth
  assert_allclose(-logsnr, [-6.0, -1.0, 4.0], atol=0.02)


def test_a_learned_schedule_has_values_in_a_trained_run_only():
  refused('^config.schedule=learned has values in', model_of('schedule=learned').plan)

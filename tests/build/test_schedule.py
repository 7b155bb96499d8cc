"""Schedules and noise inputs by their names and fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from configs import cifar10_flow, cifar10_vp, digits_flow
from diffusion_jax import build, families
from diffusion_jax.build import audit, own_parts
from diffusion_jax.build.schedule import SCHEDULES
from diffusion_jax.errors import UserError
from tests.build import toy_parts
from tests.programs.conftest import unet_smoke as smoke

NO_SHIFT = ('geometric_ve', 'karras', 'sub_vp')

FIELDS = {
  'karras': (
    dict(sigma_min=0.1, sigma_max=5.0, rho=3.0),
    dj.KarrasSchedule(0.1, 5.0, 3.0),
  ),
  'flow': (dict(shift=3.0), dj.RectifiedFlowSchedule(3.0)),
  'continuous_sigmoid': (
    dict(sigmoid_start=0.0, sigmoid_end=2.0, sigmoid_tau=0.7),
    dj.SigmoidSchedule(0.0, 2.0, 0.7),
  ),
  'continuous_cosine': (
    dict(logsnr_max=9.0, shift=4.0),
    dj.ShiftedSchedule(dj.CosineSchedule(logsnr_max=9.0), 4.0),
  ),
  'linear': (
    dict(num_steps=10, shift=0.5),
    dj.ShiftedSchedule(
      dj.DiscreteSchedule.from_betas(dj.linear_betas(10)), 0.5
    ),
  ),
}


def schedule_of(name, **fields):
  fields = {f'schedule.{field}': value for field, value in fields.items()}
  return build.build_schedule(smoke(**{'schedule.name': name} | fields))


@pytest.mark.parametrize('name', FIELDS)
def test_schedule_fields_reach_their_class(name):
  fields, expected_schedule = FIELDS[name]
  t = jnp.linspace(0.0, 1.0, 7)
  schedule = schedule_of(name, **fields)
  found, expected = jax.jit(lambda: (schedule(t), expected_schedule(t)))()
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('name', ['karras', 'flow', 'continuous_sigmoid'])
def test_schedules_without_fields_have_their_defaults(name):
  assert schedule_of(name) == type(FIELDS[name][1])()


@pytest.mark.parametrize('name', sorted(set(SCHEDULES) - set(NO_SHIFT)))
def test_what_can_be_shifted_is_variance_preserving_or_flow(name):
  config = smoke(**{'schedule.name': name, 'schedule.shift': 4.0})
  line = {'bias': -13.3, 'weight': 18.3}  # 'learned' alone reads them
  level = build.build_schedule(config, {'schedule': line})(jnp.array(0.4))
  config.schedule.shift = None
  plain = build.build_schedule(config, {'schedule': line})(jnp.array(0.4))
  ratio = level.sigma / level.alpha
  np.testing.assert_allclose(ratio, 4.0 * plain.sigma / plain.alpha, rtol=1e-5)
  if name != 'flow':
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1.0, rtol=1e-6)


@pytest.mark.parametrize('name', NO_SHIFT)
def test_others_refuse_a_shift(name):
  config = smoke(**{'schedule.name': name, 'schedule.shift': 2.0})
  with pytest.raises(
    UserError, match=f'config.schedule: {name} takes no shift'
  ):
    audit.audit(config)
  alphas = schedule_of(name, alphas=(0.9, 0.8), shift=2.0)
  assert alphas.num_steps == 2


def test_noise_inputs_take_their_fields():
  level = dj.RectifiedFlowSchedule()(0.25)
  fields = {'conditioning.noise_input': 'time', 'conditioning.time_scale': 9.0}
  assert build.build_noise_input(smoke(**fields))(level) == 2.25


NO_SIGNAL = [
  {'schedule.name': 'flow'},
  {'schedule.name': 'continuous_sigmoid'},
  {'schedule.name': 'reciprocal'},
  {'schedule.zero_terminal_snr': True},
  {'schedule.alphas': (0.9, 0.5, 0.0)},
  {'schedule.zero_terminal_snr': True, 'schedule.shift': 2.0},
]


@pytest.mark.parametrize('fields', NO_SIGNAL, ids=str)
def test_eps_and_score_need_signal_at_the_end(fields):
  config = smoke(**fields)
  mesh = build.build_mesh(config)
  for kind in ('eps', 'score'):
    config.objective.parametrization = kind
    message = f"config.objective.parametrization='{kind}': .*no signal at t = 1"
    for use in (
      lambda c: families.of(c).objective(c),
      lambda c: families.of(c).generate(c, mesh),
    ):
      with pytest.raises(UserError, match=message) as error:
        use(config)
      assert '\n' not in str(error.value)
  for kind in ('x0', 'v', 'flow', 'edm'):
    config.objective.parametrization = kind
    build.check_signal(config)
    families.of(config).objective(config)


def test_a_schedule_of_the_users_own_is_checked_too(monkeypatch):
  """It need not be a pytree."""
  config = smoke(**{'schedule.name': f'{toy_parts.__name__}:Schedule'})
  own_parts.allow_named(config)
  assert config.objective.parametrization == 'eps'
  build.check_signal(config)
  ends = lambda self, t: dj.NoiseLevel(t, 1.0 - t, t)
  monkeypatch.setattr(toy_parts.Schedule, '__call__', ends)
  with pytest.raises(UserError, match='no signal at t = 1'):
    build.check_signal(config)


@pytest.mark.parametrize(
  'sde, kind',
  [
    ('vp', dj.LinearVPSchedule),
    ('subvp', dj.SubVPSchedule),
    ('ve', dj.GeometricVESchedule),
  ],
)
def test_the_three_sdes_of_cifar10(sde, kind):
  """recipes 5; test_recipes.py has every field."""
  c = cifar10_vp.get_config(sde)
  assert build.build_schedule(c) == kind()
  level = build.build_schedule(c)(0.5)
  found = build.build_noise_input(c)(level)
  label = np.log(level.sigma) if sde == 've' else 999 / 2
  np.testing.assert_allclose(found, label, rtol=1e-6)
  trial = cifar10_vp.get_config(f'{sde}_smoke')
  assert (trial.data.name, trial.training.num_steps) == ('synthetic', 4)
  assert trial.sampling.corrector_steps == 0
  assert build.build_schedule(trial) == kind()


def test_the_arguments_of_cifar10_vp():
  for sde, same in (('', 'vp'), ('smoke', 'vp_smoke')):
    found, expected = map(cifar10_vp.get_config, (sde, same))
    assert found.to_dict() == expected.to_dict()
  message = "can be 'smoke', 'vp', 'subvp', 've', 'vp_smoke', .*, not "
  for argument in ('vpsde', 've-smoke', 'smok'):
    with pytest.raises(ValueError, match=f"{message}'{argument}'"):
      cifar10_vp.get_config(argument)


@pytest.mark.parametrize('module', [cifar10_flow, digits_flow])
def test_flows_have_the_plain_loss_of_the_velocity(module, key):
  config = module.get_config()
  c = config.objective
  times = build.build_times(config)
  level, _ = times(key, 8, build.build_schedule(config))
  scale = dj.error_scale(c.parametrization, level) ** 2
  weight = build.build_weight(config)(level)
  np.testing.assert_allclose(weight, scale, rtol=1e-6)
  np.testing.assert_allclose(level.alpha + level.sigma, 1.0, rtol=1e-6)

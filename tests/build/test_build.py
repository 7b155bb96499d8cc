"""Every known name works, every other is refused."""

import inspect
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from configs import (
  base,
  digits_dit,
  digits_edm,
  digits_vdm,
  imagenet64,
)
from diffusion_jax import build, families
from diffusion_jax.build import make, network, objective, schedule
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.errors import UserError
from diffusion_jax.networks import options
from diffusion_jax.runs import run_folder
from diffusion_jax.training.objectives import Context
from tests.programs.conftest import unet_smoke as smoke


@pytest.mark.parametrize('name', schedule.SCHEDULES)
def test_every_schedule_name(name):
  line = {'bias': -13.3, 'weight': 18.3}  # 'learned' alone reads them
  config = smoke(**{'schedule.name': name})
  schedule = build.build_schedule(config, {'schedule': line})
  level = jax.jit(schedule.__call__)(jnp.linspace(0.0, 1.0, 5))
  assert np.isfinite(level.alpha).all() and (np.diff(level.sigma) > 0).all()


def vdm_smoke(**changes):
  config = digits_vdm.get_config('smoke')
  config.training.mesh = (1, 1)
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'objective.augment': 0.1},
      "augment=0.1 needs network.name=ddpmpp: 'unet'",
    ),
    (
      {'objective.name': 'vdm', 'conditioning.self_conditioning': True},
      'self_conditioning=True needs objective.name=denoising',
    ),
    (
      {'network.name': 'ddpmpp', 'network.channels': 9},
      'config.network: num_groups=4 does not divide the 9 channels of a norm',
    ),
    (
      {
        'network.name': 'vdm',
        'conditioning.noise_input': 'logsnr',
        'conditioning.self_conditioning': True,
      },
      'conditioning.self_conditioning=True needs network.name=unet or dit or',
    ),
    (
      {'conditioning.image': 'edges'},
      "config.conditioning: image 'edges' is not one of inpaint, superres,",
    ),
    ({'conditioning.image': 'colorize'}, 'have no colours to leave out'),
    (
      {'conditioning.image': 'superres', 'conditioning.image_factor': 3},
      'config.conditioning: images of 8x8 cannot be made 3 times smaller',
    ),
    (
      {
        'conditioning.image': 'inpaint',
        'objective.augment': 0.1,
        'network.name': 'ddpmpp',
      },
      'objective.augment changes the images, conditioning.image would',
    ),
    (
      {
        'conditioning.image': 'inpaint',
        'network.name': 'vdm',
        'conditioning.noise_input': 'logsnr',
      },
      "conditioning.image=.* needs network.name=.* dit or ddpmpp: 'vdm' takes",
    ),
  ],
)
def test_a_condition_that_is_impossible_is_one_line(changes, message):
  config = smoke(**changes)
  with pytest.raises(UserError, match=message) as error:
    families.of(config).objective(config)
    families.abstract_params(config)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'objective.augment': 0.12},
    {'conditioning.self_conditioning': True, 'network.remat': True},
    {'network.noise_embedding': 'fourier', 'network.learned_variance': True},
    {'conditioning.labels': False, 'network.dtype': 'bfloat16'},
  ],
)
def test_the_options_of_ddpmpp_trace(changes):
  config = digits_edm.get_config('smoke')
  config.update_from_flattened_dict(changes)
  params = families.abstract_params(config)
  trace_loss(config, params)
  names = set(params['network'])
  assert ('augment_dense' in names) == ('objective.augment' in changes)
  assert ('noise_fourier' in names) == ('network.noise_embedding' in changes)


@pytest.mark.parametrize(
  'changes',
  [
    {'conditioning.self_conditioning': True, 'network.remat': True},
    {'network.class_tokens': 2, 'network.dtype': 'bfloat16'},
    {'conditioning.image': 'inpaint', 'optimizer.name': 'muon'},
    {'conditioning.labels': False, 'network.positions': 'rotary'},
  ],
)
def test_the_options_of_dit_trace(changes):
  config = digits_dit.get_config('smoke')
  config.update_from_flattened_dict(changes)
  params = families.abstract_params(config)
  trace_loss(config, params)
  assert ('class_positions' in params['network']) == (
    'network.class_tokens' in changes
  )
  adam = build.build_optimizer(config)
  state = jax.eval_shape(adam.init, params)
  jax.eval_shape(adam.update, params, state, params)


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'network.attention': 'cudnn', 'network.dtype': 'bfloat16'},
      "config.network.attention='cudnn' needs a GPU, and this is 'cpu': take",
    ),
    ({'network.patch_size': 3}, 'config.network: images of 8x8 cannot be cut'),
    ({'network.num_heads': 3}, 'config.network: num_heads=3 does not divide'),
    (
      {'network.mlp': 'relu'},
      r"config.network: mlp 'relu' \(did you mean 'gelu'\?\) is not one of",
    ),
    ({'optimizer.name': 'lion'}, "config.optimizer.name='lion' is not one of"),
    (
      {'optimizer.name': 'adam', 'optimizer.weight_decay': 0.1},
      "config.optimizer: 'adam' has no weight decay",
    ),
    (
      {'sampling.sampler': 'velocity_sde', 'sampling.diffusion': 'linear'},
      "config.sampling: diffusion 'linear' is not one of constant, sigma, sde",
    ),
  ],
)
def test_what_a_transformer_cannot_have_is_one_line(changes, message):
  config = digits_dit.get_config('smoke')
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message) as error:
    families.abstract_params(config)
    build.build_optimizer(config)
    build.build_sampler(config, build.build_schedule(config))
  assert '\n' not in str(error.value)


def test_the_test_loss_is_of_the_images_themselves(key):
  """Neither augmented nor with dropout: two ways to the same number."""
  conditioned = {
    'objective.augment': 1.0,
    'network.dropout': 0.5,
    'network.multipliers': (1,),
    'network.attention_resolutions': (),
    'conditioning.dropout': 0.0,
  }
  config = digits_edm.get_config('smoke')
  config.update_from_flattened_dict(conditioned)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda p: 0.2 * rng.standard_normal(p.shape, p.dtype),
    families.abstract_params(config),
  )
  batch = {
    'image': rng.standard_normal((4, 8, 8, 1), np.float32),
    'label': np.arange(4),
  }
  test = jax.jit(families.of(config).objective(config, test=True))
  train = jax.jit(families.of(config).objective(config))
  found, other = (
    loss(params, Context(), key, batch)[0] for loss in (test, train)
  )
  config.objective.augment, config.network.dropout = 0.0, 0.0
  del params['network']['augment_dense']
  plain = jax.jit(families.of(config).objective(config))
  np.testing.assert_allclose(
    found, plain(params, Context(), key, batch)[0], rtol=1e-5
  )
  assert abs(other - found) > 1e-3 * found


@pytest.fixture
def losses_of(monkeypatch, key):
  """config -> losses in test and in training, and the x0 the network saw."""
  calls = []

  def network_fn(config, network):
    def apply(params, x, noise, cond, *, key=None):
      calls.append(cond.get('x0'))
      seen = jnp.sin(1.0 + cond['label'])
      if 'drop' in cond:  # as the null class of a network
        seen = jnp.where(cond['drop'], 2.0, seen)
      return x * seen[:, None, None, None]

    return apply

  monkeypatch.setattr(objective, 'network_fn', network_fn)
  images = jax.random.normal(key, (32, 8, 8, 1))
  batch = {'image': images, 'label': jnp.arange(32) % 10}

  def apply(config):
    found = {}
    for test in (True, False):
      calls.clear()
      objective = families.of(config).objective(config, test=test)
      loss = objective({'network': {}}, Context(), key, batch)[0]
      found[test] = float(loss), list(calls)
    return found

  return apply


def test_the_test_loss_hides_no_class(losses_of):
  """Whatever training hides; that of the training does."""
  often = losses_of(smoke(**{'conditioning.dropout': 0.5}))
  never = losses_of(smoke(**{'conditioning.dropout': 0.0}))
  assert often[True][0] == never[True][0] == never[False][0]
  assert abs(often[False][0] - never[False][0]) > 0.01


def test_the_test_loss_tosses_no_coin_of_self_conditioning(losses_of):
  """Every image is seen with a first estimate; in training half of them."""
  found = losses_of(smoke(**{'conditioning.self_conditioning': True}))
  counts = {}
  for test, (_, (nothing, estimate)) in found.items():
    assert nothing is None
    counts[test] = np.asarray(estimate != 0.0).any(axis=(1, 2, 3)).sum()
  assert counts[True] == 32
  assert 4 < counts[False] < 28


@pytest.mark.parametrize('gamma', schedule.GAMMAS)
def test_every_gamma_is_its_line_before_training(gamma, key):
  config = vdm_smoke(
    **{
      'schedule.gamma': gamma,
      'schedule.gamma_min': -6.0,
      'schedule.gamma_max': 4.0,
    }
  )
  init = families.of(config).init(config)

  @jax.jit
  def params_and_level(key):
    params = init(key)
    params.pop('network')
    return params, build.build_schedule(config, params)(
      jnp.array([0.0, 0.5, 1.0])
    )

  params, level = params_and_level(key)
  assert ('schedule' in params) == (gamma != 'fixed')
  # the small random part of 'network' is far below a tenth
  np.testing.assert_allclose(-level.logsnr, [-6.0, -1.0, 4.0], atol=0.02)


def test_a_learned_schedule_needs_a_run():
  config = vdm_smoke()
  message = "config.schedule: the schedule 'learned' with gamma='scalar' has "
  with pytest.raises(UserError, match=message):
    build.build_schedule(config)
  with pytest.raises(UserError, match='objective.name=vdm trains it'):
    config = vdm_smoke(**{'objective.name': 'denoising'})
    families.of(config).objective(config)
  config.schedule.gamma = 'fixed'
  assert build.build_schedule(config)(0.5).t == 0.5
  message = "config.schedule.gamma='cubic' is not one of fixed, scalar, network"
  with pytest.raises(UserError, match=message):
    families.abstract_params(vdm_smoke(**{'schedule.gamma': 'cubic'}))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'schedule.name': 'linear'}, "config.schedule: 'linear' begins without"),
    ({'conditioning.noise_input': 'step'}, 'config.network: .*noise_input=log'),
    (
      {'network.learned_variance': True},
      'learned_variance=True needs network.na',
    ),
    ({'network.num_groups': 3}, 'config.network: num_groups=3 does not divide'),
    (
      {'schedule.gamma_min': 9.0},
      'config.network: gamma_min=9.0 is not below',
    ),
  ],
)
def test_what_vdm_cannot_have_is_one_line(changes, message):
  with pytest.raises(UserError, match=message):
    config = vdm_smoke(**changes)
    families.abstract_params(config)
    families.of(config).objective(config)


@pytest.mark.parametrize(
  'changes',
  [
    {'objective.num_steps': 10},
    {'objective.parametrization': 'v'},
    {'schedule.name': 'continuous_cosine'},
    {'conditioning.labels': True, 'conditioning.dropout': 0.1},
    {
      'network.attention_resolutions': (8,),
      'network.remat': True,
      'network.remat_policy': 'products',
    },
  ],
)
def test_the_options_of_vdm_trace(changes):
  params = families.abstract_params(vdm_smoke(**changes))
  trace_loss(vdm_smoke(**changes), params)
  if 'network.remat' in changes:
    assert 'down_0_attention' in params['network']


def test_the_bound_trains_a_unet_too():
  config = smoke(**{'objective.name': 'vdm', 'schedule.name': 'learned'})
  config.conditioning.noise_input = 'logsnr'
  trace_loss(config)


def test_explicit_alphas_win_and_count_the_steps():
  config = smoke(**{'schedule.alphas': (0.9, 0.8, 0.7)})
  schedule = build.build_schedule(config)
  np.testing.assert_allclose(schedule.alphas, [0.9, 0.8, 0.7], rtol=1e-6)
  noise_input = build.build_noise_input(config)
  found = jax.jit(lambda: noise_input(schedule.at_step(np.arange(4))))()
  np.testing.assert_array_equal(found, [0, 0, 1, 2])


def test_schedule_fields_reach_their_function():
  config = smoke(
    **{
      'schedule.name': 'linear',
      'schedule.num_steps': 10,
      'schedule.start': 0.1,
      'schedule.end': 0.5,
    }
  )
  betas = build.build_schedule(config).betas
  np.testing.assert_allclose(betas, np.linspace(0.1, 0.5, 10), rtol=1e-5)
  config.schedule.zero_terminal_snr = True
  np.testing.assert_allclose(build.build_schedule(config).betas[-1], 1.0)


def trace_loss(config, params=None):
  """params: the shapes of the parameters, which are traced if None."""
  batch = {'image': jnp.zeros((2, 8, 8, 1)), 'label': jnp.zeros(2, jnp.int32)}
  params = families.abstract_params(config) if params is None else params
  objective = families.of(config).objective(config)
  memory = objective.init()
  return jax.eval_shape(
    objective, params, Context(state=memory), jax.random.key(0), batch
  )


@pytest.mark.parametrize(
  'field, names',
  [
    ('objective.parametrization', KINDS),
    ('objective.weight', objective.WEIGHTS),
    ('objective.times', objective.TIMES),
    ('conditioning.noise_input', network.NOISE_INPUTS),
    ('network.dtype', ('float32', 'bfloat16')),
    ('network.matmul_precision', make.MATMUL_PRECISIONS),
    ('network.noise_embedding', get_args(options.Sinusoids)),
    ('network.downsample_padding', get_args(options.DownsamplePadding)),
    ('network.qkv', get_args(options.QKV)),
    ('network.initializer', get_args(options.Initialization)),
  ],
)
def test_every_name_traces(field, names, monkeypatch):
  """Those of the network by a call of it, the others by a loss of any."""
  network_fn = lambda config, network: (
    lambda params, x, noise, cond, *, key=None: noise[:, None, None, None] * x
  )
  if not field.startswith('network.'):
    monkeypatch.setattr(objective, 'network_fn', network_fn)
  for name in names:
    config = smoke(**{field: name})
    if field == 'network.dtype':  # a loss in float32
      trace_loss(config)
    elif field.startswith('network.'):
      families.abstract_params(config)
    else:
      trace_loss(config, {'network': {}})


@pytest.mark.parametrize(
  'field',
  [
    'schedule.name',
    'network.name',
    'network.dtype',
    'network.matmul_precision',
    'network.noise_embedding',
    'network.downsample_padding',
    'network.qkv',
    'network.initializer',
    'objective.name',
    'objective.parametrization',
    'objective.weight',
    'objective.times',
    'conditioning.noise_input',
    'sampling.sampler',
    'sampling.variance',
    'optimizer.weight_decay_mask',
    'data.name',
  ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(field):
  config = smoke(**{'sampling.sampler': 'ancestral'})
  config.update_from_flattened_dict({field: 'nonsense'})
  section, _, name = field.partition('.')
  message = rf"config.({field}=|{section}: {name} )'nonsense' is not one of "
  with pytest.raises(UserError, match=message):
    build.build_schedule(config)
    trace_loss(config)
    build.build_sampler(config, None)
    build.build_optimizer(config)
    build.build_source(config)


@pytest.mark.parametrize(
  'field, value, expected',
  [
    ('norm_eps', 1e-5, 1e-5),
    ('stem_channels', 4, 4),
    ('multipliers', (0.5, 1), (0.5, 1.0)),
    ('downsample_padding', 'symmetric', 'symmetric'),
    ('noise_embedding', 'openai', 'openai'),
    ('initializer', 'torch', 'torch'),
    ('remat', True, True),
  ],
)
def test_fields_without_parameters_reach_the_network(field, value, expected):
  network = build.build_network(smoke(**{f'network.{field}': value}))
  assert getattr(network, field) == expected


def test_remat_may_change_between_two_starts_of_a_run(tmp_path):
  run_folder.write_config(tmp_path, smoke())
  remat = {'network.remat': True, 'network.remat_policy': 'products'}
  run_folder.check_same_run(tmp_path, smoke(**remat))
  with pytest.raises(UserError, match='network.qkv is separate, new now'):
    run_folder.check_same_run(tmp_path, smoke(**{'network.qkv': 'new'}))


def test_a_smoke_run_of_adm_has_small_heads():
  config = imagenet64.get_config()
  config.network.stem_channels = 128
  network = build.build_network(base.with_argument(config, 'smoke'))
  assert (network.head_channels, network.stem_channels) == (4, 4)


def test_a_learned_variance_reaches_the_denoiser():
  config = smoke(**{'network.learned_variance': True})
  params = families.abstract_params(config)
  trace_loss(config, params)
  level = build.build_schedule(config)(0.5)

  def predict(params):
    cond = {'label': jnp.zeros(2, jnp.int32)}
    denoise = build.build_denoiser(config, params, cond)
    return denoise(jnp.zeros((2, 8, 8, 1)), level)

  prediction = jax.eval_shape(predict, params)
  assert prediction.x0.shape == prediction.var_frac.shape == (2, 8, 8, 1)


def variance(**changes):
  return smoke(**{'network.learned_variance': True} | changes)


@pytest.mark.parametrize('name', ['denoising', 'hybrid', 'vlb'])
def test_every_objective_of_a_fixed_schedule_traces(name):
  params = families.abstract_params(variance())
  for times in (
    objective.LOSS_AWARE if name in ('hybrid', 'vlb') else ('steps',)
  ):
    fields = {'objective.name': name, 'objective.times': times}
    loss, (metrics, memory) = trace_loss(variance(**fields), params)
    assert ('simple' in metrics) == (name == 'hybrid')
    assert (memory == ()) == (times == 'steps')


def test_the_bound_takes_its_fields_from_the_config(monkeypatch):
  seen = {}
  for name, constructor in list(objective.OBJECTIVES.items()):

    def note(constructor=constructor, **values):
      seen.update(values)
      return constructor(**values)

    note.__signature__ = inspect.signature(constructor)
    monkeypatch.setitem(objective.OBJECTIVES, name, note)
  fields = {'objective.vlb_weight': 0.5, 'objective.times': 'loss_aware'}
  config = variance(**{'objective.name': 'hybrid'} | fields)
  state: Any = families.of(config).objective(config).init()
  assert (seen['schedule_steps'], seen['num_levels']) == (1000, 17)
  assert (seen['vlb_weight'], seen['loss_aware']) == (0.5, True)
  assert seen['weight'] is dj.snr_weight
  assert state.losses.shape == (1000, 10)
  seen.clear()
  config.objective.name = 'vlb'
  families.of(config).objective(config)
  assert not {'vlb_weight', 'weight'} & set(seen)


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      {'objective.name': 'hybrid'},
      'config.objective: hybrid trains a learned variance',
    ),
    (
      {'objective.times': 'loss_aware'},
      "config.objective.times='loss_aware' is not one of steps, uniform",
    ),
    (
      {
        'objective.name': 'vlb',
        'objective.times': 'uniform',
        'network.learned_variance': True,
      },
      "config.objective.times='uniform' is not one of steps, loss_aware",
    ),
    (
      {
        'objective.name': 'vlb',
        'schedule.num_steps': 1,
        'network.learned_variance': True,
      },
      'config.objective: num_steps is 1',
    ),
    (
      {'sampling.sampler': 'ancestral', 'sampling.variance': 'learned'},
      "config.sampling.variance='learned' needs a network that has learned",
    ),
  ],
)
def test_what_needs_a_learned_variance_or_steps_is_refused(fields, message):
  config = smoke(**fields)
  with pytest.raises(UserError, match=message) as error:
    families.of(config).objective(config)
    build.build_sampler(config, None)
  assert '\n' not in str(error.value)


def test_a_learned_variance_is_sampled_with():
  sampling = {'sampling.sampler': 'ancestral', 'sampling.variance': 'learned'}
  assert build.build_sampler(variance(**sampling), None)


def test_an_unconditional_network_takes_labelled_data():
  config = smoke(**{'conditioning.labels': False})
  params = families.abstract_params(config)
  trace_loss(config, params)
  assert 'label_embedding' not in params['network']


def test_values_that_a_constructor_refuses_name_the_section():
  with pytest.raises(
    UserError, match='config.network: num_groups=3 does not divide the 8'
  ):
    families.abstract_params(smoke(**{'network.num_groups': 3}))
  with pytest.raises(UserError, match='config.network: num_heads=3 does not'):
    heads = {'network.num_heads': 3, 'network.middle_attention': 'norm'}
    families.abstract_params(smoke(**heads))
  with pytest.raises(UserError, match='config.sampling: order is 4'):
    build.build_sampler(
      smoke(**{'sampling.sampler': 'unipc', 'sampling.order': 4}), None
    )
  with pytest.raises(UserError, match='config.sampling: num_steps is -1: at'):
    build.build_sampler(smoke(**{'sampling.corrector_steps': -1}), None)
  with pytest.raises(UserError, match='config.sampling: gamma is -0.25: it'):
    fields = {'sampling.churn': -1.0, 'sampling.num_steps': 4}
    build.build_sampler(smoke(**fields), dj.LinearVPSchedule())
  with pytest.raises(UserError, match='config.sampling: eta is 2.0'):
    build.build_sampler(smoke(**{'sampling.eta': 2.0}), None)
  with pytest.raises(UserError, match='config.optimizer: the decay ends'):
    build.build_optimizer(smoke(**{'optimizer.warmup_steps': 9}))

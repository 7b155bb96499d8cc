"""Every config builds, every known name works, every other is refused."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from configs import (
  base,
  cifar10,
  cifar10_improved,
  cifar10_vdm,
  digits,
  digits_vdm,
  imagenet64,
  images64,
  mnist,
  photos,
)
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.programs import (
  UserError,
  build,
  build_data,
  build_model,
  folder,
)
from tests.programs.conftest import smoke

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


@pytest.mark.parametrize('name', EXPERIMENTS)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_every_config_builds(name, argument):
  """Network by its shapes, one traced loss."""
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(argument)
  assert f'configs/{name}.py' in module.__doc__
  assert set(folder._flat(config.to_dict())) == set(
    folder._flat(base.get_config().to_dict())
  )
  if not config.data.name:
    build.build_schedule(config)
    return
  params = build.abstract_params(config)
  schedule = build.build_schedule(config, params)
  objective = build.build_objective(config)
  build.build_optimizer(config)
  build.build_sampler(config, schedule)
  batch = {
    'image': jax.ShapeDtypeStruct((2, *config.data.image_shape), jnp.float32),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
  }
  memory = build.build_objective_state(config)
  loss, _ = jax.eval_shape(objective, params, memory, jax.random.key(0), batch)
  assert loss.shape == ()


def test_an_unknown_argument_is_not_a_full_run():
  with pytest.raises(ValueError, match="can be 'smoke', not 'smok'"):
    digits.get_config('smok')


def test_cifar10_is_the_published_recipe():
  """recipes 1.1 and 1.2."""
  config = cifar10.get_config()
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 35_746_307
  rate = build.build_learning_rate(config)
  np.testing.assert_allclose(rate(2500), 1e-4, rtol=1e-5)
  np.testing.assert_allclose(rate(500_000), 2e-4, rtol=1e-5)
  c = config
  assert (c.training.batch_size, c.training.num_steps) == (128, 800_000)
  assert (c.training.ema_decay, c.training.ema_warmup) == (0.9999, False)
  assert (c.optimizer.clip_norm, c.optimizer.eps) == (1.0, 1e-8)
  assert c.network.dropout == 0.1 and c.data.random_flip
  assert c.sampling.variance == 'fixed_large' and c.sampling.clip


@pytest.mark.parametrize('name', build_model.SCHEDULES)
def test_every_schedule_name(name):
  line = {'bias': -13.3, 'weight': 18.3}  # 'learned' alone reads them
  config = smoke(**{'schedule.name': name})
  schedule = build.build_schedule(config, {'schedule': line})
  level = schedule(jnp.linspace(0.0, 1.0, 5))
  assert np.isfinite(level.alpha).all() and (np.diff(level.sigma) > 0).all()


def vdm_smoke(**changes):
  config = digits_vdm.get_config('smoke')
  config.training.mesh = (1, 1)
  config.update_from_flattened_dict(changes)
  return config


def test_vdm_cifar10_is_the_published_recipe():
  """recipes 0 and 4."""
  config = cifar10_vdm.get_config()
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 30_578_181
  config.network.channels, config.schedule.gamma = 256, 'network'
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 122_140_677
  c = cifar10_vdm.get_config()
  rate = build.build_learning_rate(c)
  np.testing.assert_allclose([rate(50), rate(10**6)], [1e-4, 2e-4], rtol=1e-5)
  assert (c.optimizer.b1, c.optimizer.b2, c.optimizer.eps) == (0.9, 0.99, 1e-8)
  assert (c.optimizer.weight_decay, c.optimizer.clip_norm) == (0.01, 0.0)
  assert (c.training.batch_size, c.training.num_steps) == (128, 10_000_000)
  assert (c.training.ema_decay, c.training.ema_warmup) == (0.9999, False)
  assert c.network.dropout == 0.1 and not c.data.random_flip
  assert not c.sampling.clip and c.objective.num_steps == 0


@pytest.mark.parametrize('gamma', build_model.GAMMAS)
def test_every_gamma_is_its_line_before_training(gamma, key):
  config = vdm_smoke(
    **{
      'schedule.gamma': gamma,
      'schedule.gamma_min': -6.0,
      'schedule.gamma_max': 4.0,
    }
  )
  init = build.init_params(build.build_network(config), config)
  params = jax.jit(init)(key)
  assert ('schedule' in params) == (gamma != 'fixed')
  level = build.build_schedule(config, params)(jnp.array([0.0, 0.5, 1.0]))
  # the small random part of 'network' is far below a tenth
  np.testing.assert_allclose(-level.logsnr, [-6.0, -1.0, 4.0], atol=0.02)


def test_a_learned_schedule_needs_a_run():
  config = vdm_smoke()
  message = "config.schedule: the schedule 'learned' with gamma='scalar' is "
  with pytest.raises(UserError, match=message):
    build.build_schedule(config)
  with pytest.raises(UserError, match='objective.name=vdm trains it'):
    build.build_objective(vdm_smoke(**{'objective.name': 'ddpm'}))
  config.schedule.gamma = 'fixed'
  assert build.build_schedule(config)(0.5).t == 0.5
  message = "config.schedule.gamma='cubic' is not one of fixed, scalar, network"
  with pytest.raises(UserError, match=message):
    build.abstract_params(vdm_smoke(**{'schedule.gamma': 'cubic'}))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'schedule.name': 'linear'}, "config.schedule: 'linear' begins without"),
    ({'conditioning.noise_input': 'step'}, 'config.network: .*noise_input=log'),
    ({'network.learned_variance': True}, 'config.network: .* the variance'),
    ({'network.num_groups': 3}, 'config.network: num_groups=3 does not divide'),
    ({'schedule.gamma_min': 9.0}, 'config.network: gamma_min=9.0 is not below'),
  ],
)
def test_what_vdm_cannot_have_is_one_line(changes, message):
  with pytest.raises(UserError, match=message):
    config = vdm_smoke(**changes)
    build.abstract_params(config)
    build.build_objective(config)


@pytest.mark.parametrize(
  'changes',
  [
    {'objective.num_steps': 10},
    {'objective.parametrization': 'v'},
    {'schedule.name': 'continuous_cosine'},
    {'conditioning.labels': True, 'conditioning.label_dropout': 0.1},
    {'network.attention_resolutions': (8,), 'network.remat': True},
  ],
)
def test_the_options_of_vdm_trace(changes):
  trace_loss(vdm_smoke(**changes))
  if 'network.remat' in changes:
    names = build.abstract_params(vdm_smoke(**changes))['network']
    assert 'down_0_attention' in names


def test_the_bound_trains_a_unet_too():
  config = smoke(**{'objective.name': 'vdm', 'schedule.name': 'learned'})
  config.conditioning.noise_input = 'logsnr'
  trace_loss(config)


def test_explicit_alphas_win_and_count_the_steps():
  config = smoke(**{'schedule.alphas': (0.9, 0.8, 0.7)})
  schedule = build.build_schedule(config)
  np.testing.assert_allclose(schedule.alphas, [0.9, 0.8, 0.7], rtol=1e-6)
  noise_input = build.build_noise_input(config)
  found = noise_input(schedule.at_step(np.arange(4)))
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


def trace_loss(config):
  batch = {'image': jnp.zeros((2, 8, 8, 1)), 'label': jnp.zeros(2, jnp.int32)}
  params = build.abstract_params(config)
  objective = build.build_objective(config)
  memory = build.build_objective_state(config)
  return jax.eval_shape(objective, params, memory, jax.random.key(0), batch)


@pytest.mark.parametrize(
  'field, names',
  [
    ('objective.parametrization', KINDS),
    ('objective.weight', build.WEIGHTS),
    ('objective.times', build.TIMES),
    ('conditioning.noise_input', build_model.NOISE_INPUTS),
    ('network.dtype', build_model.DTYPES),
    ('network.noise_embedding', build_model.SINUSOIDS),
    ('network.downsample_padding', build_model.PADDINGS),
    ('network.qkv', build_model.QKV),
    ('network.initializer', build_model.INITIALIZERS),
  ],
)
def test_every_name_traces(field, names):
  for name in names:
    trace_loss(smoke(**{field: name}))


@pytest.mark.parametrize(
  'field',
  [
    'schedule.name',
    'network.name',
    'network.dtype',
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
    'data.name',
  ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(field):
  config = smoke(**{'sampling.sampler': 'ancestral'})
  config.update_from_flattened_dict({field: 'nonsense'})
  message = f"config.{field}='nonsense' is not one of "
  with pytest.raises(UserError, match=message):
    build.build_schedule(config)
    trace_loss(config)
    build.build_sampler(config, None)
    build.build_source(config)


@pytest.mark.parametrize(
  'module, expected',
  [(cifar10_improved, 52_546_438), (imagenet64, 295_904_454)],
)
def test_openais_networks_have_their_published_size(module, expected):
  """recipes 0 and 3.3."""
  params = build.abstract_params(module.get_config())
  assert sum(x.size for x in jax.tree.leaves(params)) == expected


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
  folder.write_config(tmp_path, smoke())
  folder.check_same_run(tmp_path, smoke(**{'network.remat': True}))
  with pytest.raises(UserError, match='network.qkv is separate, new now'):
    folder.check_same_run(tmp_path, smoke(**{'network.qkv': 'new'}))


def test_a_smoke_run_of_adm_has_small_heads():
  config = imagenet64.get_config()
  config.network.stem_channels = 128
  network = build.build_network(base.with_argument(config, 'smoke'))
  assert (network.head_channels, network.stem_channels) == (4, 4)


def test_a_learned_variance_reaches_the_denoiser():
  config = smoke(**{'network.learned_variance': True})
  trace_loss(config)
  params = build.abstract_params(config)
  level = build.build_schedule(config)(0.5)

  def predict(params):
    cond = {'label': jnp.zeros(2, jnp.int32)}
    denoise = build.build_denoiser(config, params, cond)
    return denoise(jnp.zeros((2, 8, 8, 1)), level)

  prediction = jax.eval_shape(predict, params)
  assert prediction.x0.shape == prediction.var_frac.shape == (2, 8, 8, 1)


def variance(**changes):
  return smoke(**{'network.learned_variance': True} | changes)


@pytest.mark.parametrize('name', ['ddpm', 'hybrid', 'vlb'])
def test_every_objective_of_a_fixed_schedule_traces(name):
  for times in build.LOSS_AWARE if name != 'ddpm' else ('steps',):
    fields = {'objective.name': name, 'objective.times': times}
    loss, (metrics, memory) = trace_loss(variance(**fields))
    assert ('simple' in metrics) == (name == 'hybrid')
    assert (memory == ()) == (times == 'steps')


def test_the_bound_takes_its_fields_from_the_config(monkeypatch):
  seen = {}
  monkeypatch.setattr(
    build.objectives, 'hybrid', lambda *args, **kw: seen.update(kw)
  )
  fields = {'objective.vlb_weight': 0.5, 'objective.times': 'loss_aware'}
  config = variance(**{'objective.name': 'hybrid'} | fields)
  build.build_objective(config)
  assert (seen['num_steps'], seen['num_levels']) == (1000, 17)
  assert (seen['vlb_weight'], seen['loss_aware']) == (0.5, True)
  assert seen['weight'] is dj.snr_weight
  assert build.build_objective_state(config).losses.shape == (1000, 10)
  config.objective.name = 'vlb'
  build.build_objective(config)
  assert (seen['vlb_weight'], seen['weight']) == (1.0, None)


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      {'objective.name': 'hybrid'},
      "config.objective.name='hybrid' needs --config.network.learned_variance",
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
      'config.schedule: num_steps is 1',
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
    build.build_objective(config)
    build.build_sampler(config, None)
  assert '\n' not in str(error.value)


def test_a_learned_variance_is_sampled_with():
  sampling = {'sampling.sampler': 'ancestral', 'sampling.variance': 'learned'}
  assert build.build_sampler(variance(**sampling), None)


def test_an_unconditional_network_takes_labelled_data():
  config = smoke(**{'conditioning.labels': False})
  trace_loss(config)
  names = set(build.abstract_params(config)['network'])
  assert 'label_embedding' not in names


def test_data_that_contradict_the_config_are_refused():
  changes = {'data.num_levels': 256, 'data.image_shape': (8, 8, 3)}
  message = (
    'config.data: digits needs --config.data.image_shape=8,8,1 '
    r'\(not \(8, 8, 3\)\) --config.data.num_levels=17 \(not 256\)$'
  )
  with pytest.raises(UserError, match=message):
    build.build_source(smoke(**changes))


def small(**changes):
  changes = {'data.image_shape': (8, 8, 3), 'data.num_classes': 0} | changes
  return smoke(**{'data.num_levels': 256} | changes)


@pytest.fixture
def pictures(tmp_path):
  """A folder with two classes of three pictures, and the same as npz."""
  rng = np.random.default_rng(0)
  for name in 'ab':
    (tmp_path / name).mkdir()
    for i in range(3):
      picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(picture).save(tmp_path / name / f'{i}.png')
  images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  np.savez(tmp_path / 'x.npz', images=images, labels=np.arange(6) % 2)
  return tmp_path


def test_every_source_of_ones_own_reaches_its_function(pictures):
  folder_of = {'data.name': 'folder', 'data.path': str(pictures)}
  npz = {'data.name': 'npz', 'data.path': str(pictures / 'x.npz')}
  photo = (str(pictures / 'a' / '0.png'),)
  crops = {'data.name': 'photos', 'data.photos': photo}
  for fields, size in ((folder_of, 6), (npz, 6), (crops, 1)):
    assert len(build.build_source(small(**fields))) == size
  for fields in (folder_of, npz):
    source = build.build_source(small(**fields, **{'data.num_classes': 2}))
    assert (len(source), source.num_classes) == (6, 2)
    with pytest.raises(UserError, match='config.data: .* has no test split'):
      build.build_source(small(**fields), 'test')
  half = {'data.test_fraction': 0.5}
  assert len(build.build_source(small(**npz, **half), 'test')) == 3
  shrunk = crops | {'data.photo_shrink': 2, 'data.image_shape': (4, 2, 3)}
  assert len(build.build_source(small(**shrunk))) == 3
  shrunk |= half
  assert len(build.build_source(small(**shrunk), 'test')) == 1


@pytest.mark.parametrize(
  'name, message',
  [
    ('folder', 'config.data: which folder. Give --config.data.path='),
    ('npz', 'config.data: which file.npz. Give --config.data.path='),
    ('tfds', 'config.data: which set. Give --config.data.tfds_name='),
  ],
)
def test_a_source_without_its_path_says_which_field(name, message):
  with pytest.raises(UserError, match=message):
    build.build_source(small(**{'data.name': name}))
  if name == 'folder':
    with pytest.raises(UserError, match=message):
      build.build_source(images64.get_config())


def test_the_number_of_classes_to_set_is_said(pictures):
  fields = {'data.name': 'folder', 'data.path': str(pictures)}
  message = r'folder needs --config.data.num_classes=2 \(not 3\)$'
  with pytest.raises(UserError, match=message):
    build.build_source(small(**fields, **{'data.num_classes': 3}))


def test_a_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
  """cifar10, mnist and the catalogue, with data_dir from the config."""
  import requests

  def refuse(*args, **kwargs):
    raise requests.ConnectionError

  monkeypatch.setattr(requests, 'head', refuse)
  there = {'data.data_dir': str(tmp_path), 'data.tfds_name': 'celeb_a'}
  for name in ('cifar10', 'mnist', 'tfds'):
    fields = there | {'data.name': name}
    with pytest.raises(UserError, match=f'config.data: .*{tmp_path}') as error:
      build.build_source(small(**fields))
    assert '\n' not in str(error.value)


def test_a_damaged_file_ends_training_in_one_line(pictures):
  (pictures / 'a' / '0.png').write_bytes(b'not a picture')
  fields = {'data.name': 'folder', 'data.path': str(pictures)}
  config = small(**fields, **{'training.batch_size': 6})
  batches = build.build_batches(config, build.build_source(config))
  with pytest.raises(UserError, match='config.data: .*a/0.png is not an image'):
    next(batches)


def test_every_source_is_documented():
  text = (ROOT / 'docs' / 'data.md').read_text()
  for name in build_data.SOURCES:
    assert f'`{name}`' in text


def test_smoke_needs_no_files():
  for module in (cifar10, mnist, images64):
    assert module.get_config('smoke').data.name == 'synthetic'
  assert photos.get_config('smoke').data.name == 'photos'


@pytest.mark.parametrize('name', build.SAMPLERS)
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
      with pytest.raises(UserError, match=f'{name} remembers earlier steps'):
        build.build_sampler(smoke(**fields, **more), schedule)


def test_fields_of_samplers_reach_them():
  def made(**fields):
    config = smoke(**{f'sampling.{k}': v for k, v in fields.items()})
    sampler = build.build_sampler(config, dj.LinearVPSchedule())
    levels = dj.level_grid(dj.LinearVPSchedule(), 4)
    x = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3)

    def denoise(x, level):
      return dj.Prediction(jnp.tanh(x))

    return np.asarray(
      dj.sample(
        jax.random.key(0), denoise, sampler, levels.take(slice(0, 4)), x
      )
    )

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


def test_values_that_a_constructor_refuses_name_the_section():
  with pytest.raises(
    UserError, match='config.network: num_groups=3 does not divide the 8'
  ):
    build.abstract_params(smoke(**{'network.num_groups': 3}))
  with pytest.raises(UserError, match='config.network: num_heads=3 does not'):
    build.abstract_params(smoke(**{'network.num_heads': 3}))
  with pytest.raises(UserError, match='config.sampling: order is 4'):
    build.build_sampler(
      smoke(**{'sampling.sampler': 'unipc', 'sampling.order': 4}), None
    )
  with pytest.raises(UserError, match='config.sampling: num_steps is -1: at'):
    build.build_sampler(smoke(**{'sampling.corrector_steps': -1}), None)
  with pytest.raises(UserError, match='config.sampling: gamma is -0.25: it'):
    fields = {'sampling.churn': -1.0, 'sampling.num_steps': 4}
    build.build_sampler(smoke(**fields), None)
  with pytest.raises(UserError, match='config.sampling: eta is 2.0'):
    build.build_sampler(smoke(**{'sampling.eta': 2.0}), None)
  with pytest.raises(UserError, match='config.optimizer: the decay ends'):
    build.build_optimizer(smoke(**{'optimizer.warmup_steps': 9}))

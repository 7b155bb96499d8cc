"""Our networks and options against diffusers' own."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.interop import diffusers as interop, weight_files
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.sampling import ancestral
from diffusion_jax.weights import load
from tests.app.conftest import trial
from tests.interop.test_weight_files import Evil
from tests.refusals import one_line

torch = pytest.importorskip('torch')
theirs = pytest.importorskip('diffusers')
make_stored = pytest.importorskip('tests.interop.make_stored')

# Of the largest |output|. Frequencies of the noise level are rounded on both
# sides, which a step of 999 makes 6e-5 of a wave; networks of random weights
# were up to 2e-5 apart there, and 1e-6 at step 3.
TOLERANCE = 4e-5

SMALL = make_stored.UNET | dict(block_out_channels=(16, 24), norm_num_groups=4)
# of google/ddpm-cifar10-32, except for the width
HO = make_stored.UNETS['ho'] | dict(
  sample_size=16,
  block_out_channels=(16, 32, 32, 32),
  down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
  up_block_types=('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=2,
)
SCALE_SHIFT = dict(resnet_time_scale_shift='scale_shift', attn_norm_num_groups=4)
PLAIN = dict(down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2)
RESIDUAL = dict(
  block_out_channels=(8, 16, 16),
  down_block_types=('ResnetDownsampleBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
  up_block_types=('ResnetUpsampleBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
  downsample_type='resnet',
  upsample_type='resnet',
)
UNETS = {
  'ddpm_cifar10': HO,
  'defaults': SMALL | dict(in_channels=3, out_channels=3),
  'odd_waves': SMALL | dict(flip_sin_to_cos=False, block_out_channels=(20, 24)),
  'waves_of_ho_swapped': SMALL | dict(freq_shift=1),
  'labels': SMALL | dict(num_class_embeds=5, attention_head_dim=4),
  'scale_shift_norm': SMALL | SCALE_SHIFT,
  'no_attention': SMALL | PLAIN | dict(add_attention=False, sample_size=(8, 16)),
  'resnet_updown': SMALL | RESIDUAL,
}
BARE = dict(use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)
AUTOENCODERS = {
  'stable_diffusion': make_stored.AUTOENCODER | dict(layers_per_block=2, sample_size=16),
  'bare': make_stored.AUTOENCODER
  | BARE
  | dict(sample_size=(8, 16), latent_channels=3, scaling_factor=0.5),
}


def nchw(x):
  return torch.from_numpy(np.array(x, np.float32).transpose(0, 3, 1, 2))


def nhwc(x):
  return x.detach().numpy().transpose(0, 2, 3, 1)


def close(ours, expected):
  assert ours.shape == expected.shape
  scale = np.abs(expected).max()
  assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * scale)
  return scale


def images(shape, count=4):
  return np.random.default_rng(1).standard_normal((count, *shape), np.float32)


def options(folder):
  config = weight_files.read_json(folder / 'config.json')
  return {name: x for name, x in config.items() if not name.startswith('_')}


@pytest.mark.parametrize('name', UNETS)
def test_the_unet(name, tmp_path):
  model = make_stored.perturb(theirs.UNet2DModel(**UNETS[name]))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given')
  x = images(found.facts['image_shape'])
  t, cond, more = np.array([0, 3, 250, 999]), {}, {}
  if 'num_classes' in found.facts:
    labels = np.array([0, 4, 2, 2])
    cond, more = {'label': labels}, {'class_labels': torch.from_numpy(labels)}
  with torch.no_grad():
    expected = nhwc(model(nchw(x), torch.from_numpy(t), **more).sample)
  apply = jax.jit(lambda p, x, t, c: found.network.apply({'params': p}, x, t, c))
  assert close(apply(found.params, x, t.astype(np.float32), cond), expected) > 0.1
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(found.params))

  # what ours writes, diffusers reads: the same numbers, bit for bit
  interop.save(tmp_path / 'ours', *found[:4])
  again = theirs.UNet2DModel.from_pretrained(tmp_path / 'ours' / 'unet')
  with torch.no_grad():
    back = nhwc(again.eval()(nchw(x), torch.from_numpy(t), **more).sample)
  close(back, expected)
  if name not in ('odd_waves', 'waves_of_ho_swapped'):  # rows change places
    for key, tensor in model.state_dict().items():
      assert torch.equal(again.state_dict()[key], tensor), key
    assert options(tmp_path / 'ours' / 'unet') == options(tmp_path / 'given')
  once_more = interop.load(tmp_path / 'ours')
  jax.tree.map(assert_array_equal, once_more.params, found.params)
  assert once_more.network == found.network


@pytest.mark.parametrize('name', AUTOENCODERS)
def test_the_autoencoder(name, tmp_path):
  model = make_stored.perturb(theirs.AutoencoderKL(**AUTOENCODERS[name]))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given')
  scale = AUTOENCODERS[name].get('scaling_factor', 0.18215)
  assert found.sections['decoding']['scale'] == scale
  network, params = found.network, {'params': found.params}
  x = images(found.facts['image_shape'], 2)
  with torch.no_grad():
    q = model.encode(nchw(x)).latent_dist
    z = nhwc(q.mean)
    expected = nhwc(model.decode(nchw(z)).sample)
  mean, log_variance = network.apply(params, x, method='encode')
  close(mean, z)
  close(log_variance, nhwc(q.logvar))
  close(network.apply(params, z, method='decode'), expected)

  interop.save(tmp_path / 'ours', *found[:4])
  again = theirs.AutoencoderKL.from_pretrained(tmp_path / 'ours')
  assert again.config.scaling_factor == scale
  for key, tensor in model.state_dict().items():
    assert torch.equal(again.state_dict()[key], tensor), key
  once_more = interop.load(tmp_path / 'ours')
  jax.tree.map(assert_array_equal, once_more.params, found.params)
  assert once_more.network == network
  assert once_more.sections == found.sections


def test_log_variances_are_clipped_as_theirs(tmp_path):
  model = make_stored.perturb(theirs.AutoencoderKL(**AUTOENCODERS['bare']))
  with torch.no_grad():
    model.encoder.conv_out.bias[3:] += torch.tensor([-300.0, 300.0, 0.0])
  model.save_pretrained(tmp_path)
  found = interop.load(tmp_path)
  x = images(found.facts['image_shape'], 1)
  with torch.no_grad():
    expected = nhwc(model.encode(nchw(x)).latent_dist.logvar)
  _, log_variance = found.network.apply({'params': found.params}, x, method='encode')
  close(log_variance, expected)
  assert (expected[..., 0] == -30.0).all() and (expected[..., 1] == 20.0).all()


def alpha_bars(schedule):
  return np.asarray(store.completed({'schedule': schedule}).schedule.make().alpha_bars)


@pytest.mark.parametrize(
  'options',
  [
    dict(beta_schedule='squaredcos_cap_v2', num_train_timesteps=100),
    dict(beta_schedule='sigmoid', prediction_type='sample'),
    dict(rescale_betas_zero_snr=True, prediction_type='v_prediction'),
    dict(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
  ],
)
def test_the_betas_of_schedulers(options, tmp_path):
  scheduler = theirs.DDPMScheduler(**options)
  scheduler.save_pretrained(tmp_path)
  config = weight_files.read_json(tmp_path / 'scheduler_config.json')
  sections, notes = interop.schedulers.read_sections(config)
  assert not notes
  expected = scheduler.alphas_cumprod.numpy()
  assert_allclose(alpha_bars(sections['schedule']), expected, rtol=2e-3, atol=1e-7)
  sections['objective'] = {'name': 'denoising'}
  again = theirs.DDPMScheduler.from_config(interop.schedulers.write_config(sections))
  assert_allclose(again.alphas_cumprod, expected, rtol=1e-6)
  assert again.config.prediction_type == scheduler.config.prediction_type


# What becomes of an option with a value that is not its default.
EXACT = """
  num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type clip_sample
  timestep_spacing rescale_betas_zero_snr thresholding dynamic_thresholding_ratio sample_max_value
  predict_x0
""".split()
REFUSED = 'clip_sample_range', 'use_flow_sigmas', 'timestep_type'
OF_CLASS = {
  ('DDPMScheduler', 'variance_type'): 'exact',
  ('DDPMScheduler', 'steps_offset'): 'refused',
  ('DDIMScheduler', 'steps_offset'): 'refused',
  ('DDIMScheduler', 'set_alpha_to_one'): 'refused',
}
VALUES = {
  **dict(num_train_timesteps=100, beta_start=2e-4, beta_end=0.03, beta_schedule='scaled_linear'),
  **dict(trained_betas=[0.01, 0.02, 0.03, 0.04] * 7, prediction_type='v_prediction'),
  **dict(timestep_spacing='trailing', clip_sample_range=2.0, variance_type='fixed_large'),
  **dict(dynamic_thresholding_ratio=0.7, sample_max_value=1.5, steps_offset=1, flow_shift=3.0),
  **dict(time_shift_type='linear', solver_order=3, solver_type='heun', sigma_min=0.1),
  **dict(algorithm_type='sde-dpmsolver++', final_sigmas_type='sigma_min', sigma_max=9.0),
  **dict(lambda_min_clipped=-5.1, disable_corrector=[0], solver_p='x', shift_terminal=0.1),
  **dict(interpolation_type='log_linear', timestep_type='continuous'),
}
OPTIONS = {
  name: inspect.signature(getattr(theirs, name).__init__).parameters
  for name in ('DDPMScheduler', 'DDIMScheduler', *interop.schedulers._SAME_MODELS)
}
# Options that have an effect with others only.
WITH = {
  'trained_betas': {'num_train_timesteps': 28},
  'clip_sample_range': {'clip_sample': True},
  'dynamic_thresholding_ratio': {'thresholding': True, 'sample_max_value': 9.0},
  'sample_max_value': {'thresholding': True},
  'predict_x0': {'thresholding': True},
}


def their_x0(scheduler, output, t, x):
  if hasattr(scheduler, 'convert_model_output'):
    scheduler._init_step_index(t)
    return scheduler.convert_model_output(output, sample=x)
  if hasattr(scheduler, 'plms_timesteps'):  # a step to clean data
    scheduler.final_alpha_cumprod = torch.tensor(1.0)
    return scheduler._get_prev_sample(x, int(t), -1, output)
  if hasattr(scheduler, 'scale_model_input'):
    scheduler.scale_model_input(x, t)
  return scheduler.step(output, t, x).pred_original_sample


def bound_of(sections):
  """Returns denoiser -> denoiser, as the config of sections bounds x_0."""
  c = store.completed(sections | {'objective': {'name': 'denoising'}}).sampling.make()
  return c.bound or (lambda denoise: denoise)


@pytest.mark.parametrize(
  'name, option',
  [(name, option) for name, rows in OPTIONS.items() for option in rows if option != 'self'],
)
def test_every_option_of_a_scheduler(name, option):
  """Exact are the alpha_bars, the spacing and x_0 far beyond [-1, 1]."""
  default = OPTIONS[name][option].default
  value = not default if isinstance(default, bool) else VALUES[option]
  becomes = 'exact' if option in EXACT else 'refused' if option in REFUSED else 'noted'
  becomes = OF_CLASS.get((name, option), becomes)
  options = {**WITH.get(option, {}), option: value}
  given = {'_class_name': name, **options}
  if becomes == 'refused':
    with pytest.raises(ValueError, match=f'{option}=.* has no counterpart'):
      interop.schedulers.read_sections(given)
    return
  sections, notes = interop.schedulers.read_sections(given)
  if becomes == 'noted':
    assert 'is not read as a sampler' in notes[0] and option in notes[0]
    return
  scheduler = getattr(theirs, name)(**options)
  expected = scheduler.alphas_cumprod.numpy()
  assert_allclose(alpha_bars(sections['schedule']), expected, rtol=2e-3, atol=1e-7)
  assert sections['sampling']['grid']['spacing'] == scheduler.config.get(
    'timestep_spacing', 'linspace'
  )
  if option == 'predict_x0':  # They bound nothing then.
    assert sections['sampling']['bound'] is None
    return

  scheduler.set_timesteps(10)
  t = scheduler.timesteps[len(scheduler.timesteps) // 2]
  alpha, sigma = expected[int(t)] ** 0.5, (1.0 - expected[int(t)]) ** 0.5
  x0, eps = 2.5 * torch.randn(2, 2, 8, 8, 1)
  output = alpha * eps - sigma * x0 if (option == 'prediction_type') else eps
  x = alpha * x0 + sigma * eps
  ratio = name.startswith(('Euler', 'Heun', 'LMS'))  # their x is x / alpha
  found = their_x0(scheduler, output, t, x / alpha if ratio else x)
  if name.startswith('DEIS'):  # It goes on with the eps of this x_0.
    found = (x - sigma * found) / alpha
  denoise = bound_of(sections)(lambda xt, level: dj.Prediction(jnp.asarray(x0.numpy())))
  bounded = denoise(jnp.asarray(x.numpy()), dj.LinearVPSchedule()(0.5)).x0
  assert_allclose(bounded, found.numpy(), rtol=1e-3, atol=2e-3)
  assert np.std(bounded) > 0.4


@pytest.mark.parametrize(
  'name, options',
  [
    ('DDPMScheduler', {}),
    ('DDPMScheduler', {'clip_sample': False, 'variance_type': 'fixed_large'}),
    ('DDPMScheduler', {'thresholding': True}),
    ('DDPMScheduler', {'thresholding': True, 'sample_max_value': 1.5}),
    ('DDIMScheduler', {'timestep_spacing': 'trailing'}),
    ('DDIMScheduler', {'thresholding': True, 'sample_max_value': 1.5}),
    ('DDIMScheduler', {'clip_sample': False}),
  ],
)
def test_a_scheduler_draws_what_it_is_read_as(name, options, monkeypatch):
  """x_0_hat is 2 tanh(x): far beyond [-1, 1]; eps as the note says."""
  scheduler = getattr(theirs, name)(num_train_timesteps=100, prediction_type='sample', **options)
  sections, notes = interop.schedulers.read_sections({'_class_name': name, **scheduler.config})
  step = {'use_clipped_model_output': True} if 'DDIM' in name else {}
  assert ['eps' in note for note in notes] == [True] * bool(step and sections['sampling']['bound'])
  z = np.random.default_rng(0).standard_normal((2, 2, 8, 8, 1))
  z = z.astype(np.float32)
  monkeypatch.setattr(
    sys.modules[type(scheduler).__module__],
    'randn_tensor',
    lambda shape, **options: torch.tensor(z[1]),
  )
  monkeypatch.setattr(ancestral, 'draw_normal', lambda key, x: jnp.asarray(z[1]))
  scheduler.set_timesteps(sections['sampling']['grid']['number'])
  y = torch.tensor(z[0])
  for t in scheduler.timesteps:
    y = scheduler.step(2.0 * torch.tanh(y), t, y, **step).prev_sample

  config = store.completed(sections | {'objective': {'name': 'denoising'}})
  schedule, c = config.schedule.make(), config.sampling.make()
  sampler = c.sampler.make({'schedule': schedule})
  levels = diffusion.levels_of(c.grid, schedule)
  denoise = bound_of(sections)(lambda xt, level: dj.Prediction(2.0 * jnp.tanh(xt)))
  ours = jax.jit(lambda x: dj.sample(jax.random.key(0), denoise, sampler, levels, x))(z[0])
  assert np.std(ours) > 0.4
  assert_allclose(ours, y.numpy(), rtol=0, atol=2e-4)


def test_ddim_pipeline_makes_the_images_of_a_run(tmp_path):
  """20 steps from the same noise; our eps belongs to the clipped x0."""
  config = trial(**{'conditioning.labels': False, 'conditioning.dropout': 0.0})
  run, out = tmp_path / 'run', tmp_path / 'out'
  MODES['train'](config, str(run))
  flags = {'convert.to': 'diffusers', 'convert.out': str(out)}
  MODES['convert'](store.with_flags(config, [*flags.items()]), str(run))

  pipeline = theirs.DDIMPipeline.from_pretrained(out)
  pipeline.set_progress_bar_config(disable=True)
  generator = torch.Generator().manual_seed(0)
  pictures = pipeline(
    batch_size=2,
    generator=generator,
    num_inference_steps=20,
    use_clipped_model_output=True,
    output_type='np',
  ).images
  x = torch.randn((2, 1, 8, 8), generator=generator.manual_seed(0))

  flags = [('sampling.num_steps', '20'), ('sampling.sampler.eta', '0')]
  model = make_model(store.with_flags(config, flags), RunFolder.at(run))
  params = load.open(run).params
  assert model.plan is not None
  _, levels, sampler, step_function, *_ = model.plan(params)
  denoise = step_function({})
  keys = jax.random.split(jax.random.key(0), 2)
  sample = jax.jit(lambda x: dj.sample(keys, denoise, sampler, levels, x))
  ours = np.clip(np.asarray(sample(jnp.asarray(nhwc(x)))) / 2 + 0.5, 0, 1)
  assert np.std(ours) > 0.1
  assert_allclose(ours, pictures, rtol=0, atol=1e-4)


def test_a_class_becomes_part_of_the_weights(tmp_path):
  model = make_stored.perturb(theirs.UNet2DModel(**SMALL, num_class_embeds=4))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given', null_class=True)
  assert found.facts['num_classes'] == 3
  x, t = images((4, 4, 1), 2), torch.tensor([10, 500])
  for label, row in ((1, 1), (-1, 3)):
    folder = tmp_path / f'of_{label}'
    interop.save(folder, *found[:4], label=label)
    plain = theirs.UNet2DModel.from_pretrained(folder / 'unet')
    assert plain.config.num_class_embeds is None
    labels = torch.tensor([row, row])
    with torch.no_grad():
      expected = model(nchw(x), t, class_labels=labels).sample
      close(nhwc(plain.eval()(nchw(x), t).sample), nhwc(expected))


def test_weights_of_torch(tmp_path):
  """.bin, half precision, and the names of attention before version 0.12."""
  model = make_stored.perturb(theirs.UNet2DModel(**SMALL))
  model.save_pretrained(tmp_path, safe_serialization=False)
  expected = interop.load(tmp_path).params
  old = model.state_dict()
  for new, legacy in make_stored.LEGACY.items():
    old = {name.replace(new, legacy): tensor for name, tensor in old.items()}
  path = tmp_path / 'diffusion_pytorch_model.bin'
  assert any('proj_attn' in name for name in old)
  torch.save(old, path)
  jax.tree.map(assert_array_equal, interop.load(tmp_path).params, expected)
  torch.save({n: x.bfloat16() for n, x in old.items()}, path)
  halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), expected)
  jax.tree.map(assert_array_equal, interop.load(tmp_path).params, halved)


@pytest.mark.parametrize('new_format', [True, False])
def test_a_pickle_that_runs_code_is_refused(new_format, tmp_path):
  created, path = tmp_path / 'created', tmp_path / 'weights.pth'
  torch.save({'a': Evil(created)}, path, _use_new_zipfile_serialization=new_format)
  with one_line('weights without code'):
    weight_files.read_tensors(path)
  assert not created.exists()
  torch.load(path, weights_only=False)  # the file is what it seems to be
  assert created.exists()


def test_a_cut_file_of_torch_is_one_line(tmp_path):
  path = tmp_path / 'weights.pth'
  torch.save({'a': torch.ones(1000)}, path)
  whole = path.read_bytes()
  assert weight_files.read_tensors(path)['a'].shape == (1000,)
  for size in (10, 1000, len(whole) - 1):
    path.write_bytes(whole[:size])
    with one_line():
      weight_files.read_tensors(path)

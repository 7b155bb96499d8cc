"""Our networks against diffusers' UNet2DModel, AutoencoderKL and pipelines.

All parameters are random, including the scales of norms and the ends of
branches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models
from diffusion_jax.app.config import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.interop import diffusers as interop, files
from diffusion_jax.training import stored_weights
from tests.app.conftest import trial

torch = pytest.importorskip('torch')
theirs = pytest.importorskip('diffusers')

# Of the largest |output|. Frequencies of the noise level are rounded on both
# sides, which a step of 999 makes 6e-5 of a wave; networks of random weights
# were up to 2e-5 apart there, and 1e-6 at step 3.
TOLERANCE = 4e-5

SMALL = dict(
  sample_size=8,
  block_out_channels=(16, 24),
  layers_per_block=1,
  norm_num_groups=4,
  down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
  up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
)
# of google/ddpm-cifar10-32, except for the width
HO = dict(
  sample_size=16,
  block_out_channels=(16, 32, 32, 32),
  down_block_types=('DownBlock2D', 'AttnDownBlock2D', *['DownBlock2D'] * 2),
  up_block_types=(*['UpBlock2D'] * 2, 'AttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=2,
  norm_num_groups=8,
  attention_head_dim=None,
  downsample_padding=0,
  freq_shift=1,
  flip_sin_to_cos=False,
  norm_eps=1e-6,
)
UNETS = {
  'ddpm_cifar10': HO,
  'defaults': SMALL,
  'odd_waves': SMALL | dict(flip_sin_to_cos=False, block_out_channels=(20, 24)),
  'waves_of_ho_swapped': SMALL | dict(freq_shift=1),
  'labels': SMALL | dict(num_class_embeds=5, attention_head_dim=4),
  'scale_shift': SMALL | dict(resnet_time_scale_shift='scale_shift'),
  'scale_shift_norm': SMALL
  | dict(resnet_time_scale_shift='scale_shift', attn_norm_num_groups=4),
  'no_attention': SMALL
  | dict(
    add_attention=False,
    down_block_types=('DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D'),
    sample_size=(8, 16),
    in_channels=1,
    out_channels=1,
  ),
  'resnet_updown': SMALL
  | dict(
    block_out_channels=(8, 16, 16),
    down_block_types=(
      'ResnetDownsampleBlock2D',
      'AttnDownBlock2D',
      'DownBlock2D',
    ),
    up_block_types=('ResnetUpsampleBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    downsample_type='resnet',
    upsample_type='resnet',
  ),
}
AUTOENCODERS = {
  'stable_diffusion': dict(
    block_out_channels=(8, 16, 16),
    down_block_types=['DownEncoderBlock2D'] * 3,
    up_block_types=['UpDecoderBlock2D'] * 3,
    layers_per_block=2,
    norm_num_groups=4,
    sample_size=16,
  ),
  'bare': dict(
    block_out_channels=(8, 16),
    down_block_types=['DownEncoderBlock2D'] * 2,
    up_block_types=['UpDecoderBlock2D'] * 2,
    norm_num_groups=4,
    sample_size=(8, 16),
    latent_channels=3,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=False,
    scaling_factor=0.5,
  ),
}


def perturbed(model, seed=0):
  """Returns the model with N(0, 0.2^2) added to every parameter."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in model.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(0.2 * noise)
  return model.eval()


def nchw(x):
  return torch.from_numpy(np.array(x, np.float32).transpose(0, 3, 1, 2))


def nhwc(x):
  return x.detach().numpy().transpose(0, 2, 3, 1)


def close(ours, expected):
  assert ours.shape == expected.shape
  scale = np.abs(expected).max()
  np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * scale)
  return scale


def images(shape, count=4):
  return np.random.default_rng(1).standard_normal((count, *shape), np.float32)


def options(folder):
  config = files.read_json(folder / 'config.json')
  return {name: x for name, x in config.items() if not name.startswith('_')}


@pytest.mark.parametrize('name', UNETS)
def test_the_unet(name, tmp_path):
  model = perturbed(theirs.UNet2DModel(**UNETS[name]))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given')
  x = images(found.facts['image_shape'])
  t, cond, more = np.array([0, 3, 250, 999]), {}, {}
  if 'num_classes' in found.facts:
    labels = np.array([0, 4, 2, 2])
    cond, more = {'label': labels}, {'class_labels': torch.from_numpy(labels)}
  with torch.no_grad():
    expected = nhwc(model(nchw(x), torch.from_numpy(t), **more).sample)
  apply = jax.jit(
    lambda p, x, t, c: found.network.apply({'params': p}, x, t, c)
  )
  scale = close(apply(found.params, x, t.astype(np.float32), cond), expected)
  assert scale > 0.1
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
  jax.tree.map(np.testing.assert_array_equal, once_more.params, found.params)
  assert once_more.network == found.network


@pytest.mark.parametrize('name', AUTOENCODERS)
def test_the_autoencoder(name, tmp_path):
  model = perturbed(theirs.AutoencoderKL(**AUTOENCODERS[name]))
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
  jax.tree.map(np.testing.assert_array_equal, once_more.params, found.params)
  assert once_more.network == network
  assert once_more.sections == found.sections


def test_log_variances_are_clipped_as_theirs(tmp_path):
  model = perturbed(theirs.AutoencoderKL(**AUTOENCODERS['bare']))
  with torch.no_grad():
    model.encoder.conv_out.bias[3:] += torch.tensor([-300.0, 300.0, 0.0])
  model.save_pretrained(tmp_path)
  found = interop.load(tmp_path)
  x = images(found.facts['image_shape'], 1)
  with torch.no_grad():
    expected = nhwc(model.encode(nchw(x)).latent_dist.logvar)
  params = {'params': found.params}
  _, log_variance = found.network.apply(params, x, method='encode')
  close(log_variance, expected)
  assert (expected[..., 0] == -30.0).all() and (expected[..., 1] == 20.0).all()


def alpha_bars(schedule):
  """Returns alpha_bars of the schedule that a config makes of a section."""
  section = store.completed({'schedule': schedule}).schedule
  return np.asarray(section.make().alpha_bars)


@pytest.mark.parametrize(
  'options',
  [
    {},
    dict(beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195),
    dict(beta_schedule='squaredcos_cap_v2', num_train_timesteps=100),
    dict(beta_schedule='sigmoid', prediction_type='sample'),
    dict(rescale_betas_zero_snr=True, prediction_type='v_prediction'),
    dict(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
  ],
)
def test_the_betas_of_schedulers(options, tmp_path):
  scheduler = theirs.DDPMScheduler(**options)
  scheduler.save_pretrained(tmp_path)
  config = files.read_json(tmp_path / 'scheduler_config.json')
  sections, notes = interop.schedulers.read_sections(config)
  assert not notes
  expected = scheduler.alphas_cumprod.numpy()
  ours = alpha_bars(sections['schedule'])
  np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-7)
  sections['objective'] = {'name': 'denoising'}
  again = theirs.DDPMScheduler.from_config(
    interop.schedulers.write_config(sections)
  )
  np.testing.assert_allclose(again.alphas_cumprod, expected, rtol=1e-6)
  assert again.config.prediction_type == scheduler.config.prediction_type


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
  model = models.make(store.with_flags(config, flags), run)
  params, _ = stored_weights.restore_params(run)
  assert model.plan is not None
  _, levels, sampler, step_function, *_ = model.plan(params)
  denoise = step_function({})
  keys = jax.random.split(jax.random.key(0), 2)
  sample = jax.jit(lambda x: dj.sample(keys, denoise, sampler, levels, x))
  ours = np.clip(np.asarray(sample(jnp.asarray(nhwc(x)))) / 2 + 0.5, 0, 1)
  assert np.std(ours) > 0.1
  np.testing.assert_allclose(ours, pictures, rtol=0, atol=1e-4)


def test_ddpm_pipeline_runs(tmp_path):
  model = perturbed(theirs.UNet2DModel(**SMALL))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given')
  assert 'no scheduler_config.json' in found.notes[0]
  interop.save(tmp_path / 'ours', *found[:4])
  pipeline = theirs.DDPMPipeline.from_pretrained(tmp_path / 'ours')
  pipeline.set_progress_bar_config(disable=True)
  pictures = pipeline(num_inference_steps=3, output_type='np').images
  assert pictures.shape == (1, 8, 8, 3) and np.isfinite(pictures).all()
  assert dict(pipeline.scheduler.config)['timestep_spacing'] == 'leading'


def test_a_class_becomes_part_of_the_weights(tmp_path):
  model = perturbed(theirs.UNet2DModel(**SMALL, num_class_embeds=4))
  model.save_pretrained(tmp_path / 'given')
  found = interop.load(tmp_path / 'given', null_class=True)
  assert found.facts['num_classes'] == 3
  x, t = images((8, 8, 3), 2), torch.tensor([10, 500])
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
  model = perturbed(theirs.UNet2DModel(**SMALL))
  model.save_pretrained(tmp_path, safe_serialization=False)
  expected = interop.load(tmp_path).params
  old = {}
  for name, tensor in model.state_dict().items():
    for new, legacy in (
      ('to_q', 'query'),
      ('to_k', 'key'),
      ('to_v', 'value'),
      ('to_out.0', 'proj_attn'),
    ):
      name = name.replace(f'.{new}.', f'.{legacy}.')
    old[name] = tensor
  path = tmp_path / 'diffusion_pytorch_model.bin'
  assert any('proj_attn' in name for name in old)
  torch.save(old, path)
  jax.tree.map(
    np.testing.assert_array_equal, interop.load(tmp_path).params, expected
  )
  torch.save({n: x.bfloat16() for n, x in old.items()}, path)
  halved = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(np.float32), expected
  )
  jax.tree.map(
    np.testing.assert_array_equal, interop.load(tmp_path).params, halved
  )


class Evil:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    import os

    return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('new_format', [True, False])
def test_a_pickle_that_runs_code_is_refused(new_format, tmp_path):
  created, path = tmp_path / 'created', tmp_path / 'weights.pth'
  torch.save(
    {'a': Evil(created)}, path, _use_new_zipfile_serialization=new_format
  )
  with pytest.raises(ValueError, match='weights without code') as error:
    files.read_tensors(path)
  assert '\n' not in str(error.value) and not created.exists()
  torch.load(path, weights_only=False)  # the file is what it seems to be
  assert created.exists()


def test_a_cut_file_of_torch_is_one_line(tmp_path):
  path = tmp_path / 'weights.pth'
  torch.save({'a': torch.ones(1000)}, path)
  whole = path.read_bytes()
  assert files.read_tensors(path)['a'].shape == (1000,)
  for size in (10, 1000, len(whole) - 1):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError) as error:
      files.read_tensors(path)
    assert '\n' not in str(error.value)


def test_config_json_is_theirs(tmp_path):
  """Exactly the options of the class are written."""
  model = perturbed(theirs.UNet2DModel(**SMALL))
  model.save_pretrained(tmp_path / 'given')
  interop.save(tmp_path / 'ours', *interop.load(tmp_path / 'given')[:4])
  for path in (tmp_path / 'given', tmp_path / 'ours' / 'unet'):
    assert set(options(path)) == set(interop.unet.OPTIONS)

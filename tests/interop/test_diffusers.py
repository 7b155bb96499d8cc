"""Folders of diffusers without torch: stored/ has their networks' outputs."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.interop import diffusers, diffusers_schedulers, files
from diffusion_jax.interop.diffusers_options import multipliers
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.training.lora import lora_init, lora_merge
from tests.interop.literal import assert_close, random_like, run

STORED = Path(__file__).parent / 'stored'
WEIGHTS = 'diffusion_pytorch_model.safetensors'


def loaded(name):
  """Returns our network and params, and their inputs and outputs."""
  with np.load(STORED / name / 'expected.npz') as arrays:
    return diffusers.load(STORED / name), dict(arrays)


def same(ours, expected):
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def inputs_of(name, expected):
  """Returns x, t and cond; class 3 of the transformer is the null class."""
  cond, label = {}, expected.get('label')
  if name != 'ho':
    cond = {'label': label % 3}
    cond |= {'drop': label == 3} if name == 'dit' else {}
  return expected['x'], expected['t'].astype(np.float32), cond


@pytest.mark.parametrize('name', ['ho', 'labels', 'dit'])
def test_the_network_computes_what_theirs_does(name, tmp_path):
  found, expected = loaded(name)
  assert_close(run(found.network, found.params, *inputs_of(name, expected)), expected['output'])

  diffusers.save(tmp_path / 'ours', *found[:4])
  if name == 'dit':
    assert found.sections['objective'] == {'name': 'hybrid'}
    written = files.read_tensors(tmp_path / 'ours' / 'transformer' / WEIGHTS)
    same(written, files.read_tensors(STORED / 'dit' / WEIGHTS))
    return
  classes = {'num_classes': 3} if name == 'labels' else {}
  assert found.facts == {'image_shape': (4, 4, 1)} | classes
  again = diffusers.load(tmp_path / 'ours')
  same(again.params, found.params)
  assert again.network == found.network and again.facts == found.facts
  assert again.sections == found.sections


def test_the_autoencoder_computes_what_theirs_does(tmp_path):
  found, expected = loaded('autoencoder')

  @jax.jit
  def apply(params, x, mean):
    run = functools.partial(found.network.apply, {'params': params})
    return *run(x, method='encode'), run(mean, method='decode')

  ours = apply(found.params, expected['x'], expected['mean'])
  for array, name in zip(ours, ('mean', 'log_variance', 'output'), strict=True):
    assert_close(array, expected[name])
  assert found.sections['decoding']['scale'] == 0.18215

  diffusers.save(tmp_path / 'ours', *found[:4])
  written = (tmp_path / 'ours' / WEIGHTS).read_bytes()
  assert written == (STORED / 'autoencoder' / WEIGHTS).read_bytes()


@pytest.mark.parametrize('name', ['labels', 'dit'])
def test_adapters_in_their_names_are_the_difference_of_merged_weights(name):
  """W_merged = W + B A in their layout, of products and of convolutions."""
  found = diffusers.load(STORED / name)
  network, params, shape = *found[:2], found.facts['image_shape']
  init = functools.partial(lora_init, rank=2, convolutions=name == 'labels')
  adapters = random_like(jax.eval_shape(init, jax.random.key(0), params))
  merged = jax.device_get(jax.jit(lora_merge)(params, adapters, 0.5))
  before = diffusers.tensors_of(network, params)
  after = diffusers.tensors_of(network, merged)
  written = dict(diffusers.adapters_of(network, adapters, 0.5, shape))
  prefix = 'transformer.' if name == 'dit' else 'unet.'
  for weight, w in before.items():
    module = prefix + weight.removesuffix('weight')
    if f'{module}lora_A.weight' not in written:
      np.testing.assert_array_equal(after[weight], w)
      continue
    a = written.pop(f'{module}lora_A.weight')
    b = written.pop(f'{module}lora_B.weight')
    assert a.shape == (2, *w.shape[1:])
    assert b.shape == (len(w), 2, *[1] * (w.ndim - 2))
    product = np.tensordot(b.reshape(len(w), 2), a, axes=1)
    np.testing.assert_allclose(after[weight], w + product, rtol=0, atol=1e-5)
  assert not written
  other = Autoencoder(image_size=(8, 8), out_channels=1)
  with pytest.raises(ValueError, match='adapters of Autoencoder have no names'):
    diffusers.adapters_of(other, adapters, 0.5, shape)


def test_embeddings_of_a_transformer_must_be_equal(copy):
  folder, tensors = copy('dit'), files.read_tensors(STORED / 'dit' / WEIGHTS)
  name = 'transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias'
  for changed, message in (
    ({name: tensors[name] + 1.0}, 'one embedding of noise and label'),
    ({'transformer_blocks.2.attn1.to_q.bias': tensors[name]}, 'not used'),
  ):
    safetensors.numpy.save_file(tensors | changed, folder / WEIGHTS)
    refused(folder, message)


def test_the_scheduler_of_ddpm_cifar10():
  """Its scheduler_config.json gives the process of Ho et al."""
  sections = diffusers.load(STORED / 'ho').sections
  schedule = {'name': 'linear', 'num_steps': 1000, **{'start': 1e-4, 'end': 0.02}}
  assert sections['schedule'] == schedule
  assert sections['sampling']['sampler'] == {'name': 'ancestral', 'variance': 'fixed_large'}
  assert sections['sampling']['clip'] is True
  assert sections['parametrization'] == {'name': 'eps'}
  assert sections['network']['noise_embedding'] == 'ho'
  assert sections['network']['downsample_padding'] == 'same'


def test_a_missing_scheduler_is_said():
  found = diffusers.load(STORED / 'labels')
  assert 'there is no scheduler_config.json' in found.notes[0]
  assert found.sections['sampling']['sampler']['variance'] == 'fixed_small'


# What is read of options, as (class, options, fields of sampling, a note):
# False, 0.0, None are how x_0 is bounded: clip, quantile, its largest value.
DPM, EPS = 'DPMSolverMultistepScheduler', 'DDIMScheduler keeps the eps of x_0'
MAX = 'sample_max_value'
DYNAMIC = {'thresholding': True, 'dynamic_thresholding_ratio': 0.9}
READ = [
  ('DDPMScheduler', {}, (True, 0.0, None), ''),
  ('DDPMScheduler', {'clip_sample': False}, (False, 0.0, None), ''),
  ('DDPMScheduler', DYNAMIC, (True, 0.0, None), ''),
  ('DDPMScheduler', DYNAMIC | {'sample_max_value': 1.5}, (True, 0.9, 1.5), ''),
  ('DDPMScheduler', DYNAMIC | {'sample_max_value': 0.5}, (True, 0.9, 0.5), ''),
  ('DDPMScheduler', DYNAMIC | {MAX: None}, (True, 0.9, None), ''),
  ('DDPMScheduler', DYNAMIC | {MAX: 1e39}, (True, 0.9, None), ''),
  ('DDIMScheduler', {}, (True, 0.0, None), EPS),
  ('DDIMScheduler', DYNAMIC | {'sample_max_value': 2.0}, (True, 0.9, 2.0), EPS),
  ('DDIMScheduler', {'clip_sample': False}, (False, 0.0, None), ''),
  ('DDIMScheduler', {'clip_sample': False, 'timestep_spacing': 'linspace'},
   (False, 0.0, None), 'timestep_spacing=linspace: steps of DDIMScheduler end'),
  # They never clip; a file may have the option from another class.
  ('PNDMScheduler', {'clip_sample': True}, (False, 0.0, None), 'clip_sample'),
  ('EulerDiscreteScheduler', DYNAMIC, (False, 0.0, None), 'thresholding'),
  ('LMSDiscreteScheduler', {}, (False, 0.0, None), 'not read as a sampler'),
  ('HeunDiscreteScheduler', {}, (False, 0.0, None), 'not read as a sampler'),
  ('HeunDiscreteScheduler', {'clip_sample': True}, (True, 0.0, None), 'Heun'),
  (DPM, {}, (False, 0.0, None), 'DDIM with 50 steps'),
  (DPM, DYNAMIC, (True, 0.0, None), 'DDIM with 50 steps'),
  (DPM, DYNAMIC | {'sample_max_value': 1.5}, (True, 0.9, 1.5), 'DDIM with'),
  (DPM, {'use_karras_sigmas': True, 'solver_order': 3}, (False, 0.0, None),
   'not read: use_karras_sigmas, solver_order'),
  ('DEISMultistepScheduler', DYNAMIC | {'sample_max_value': 1.5},
   (True, 0.9, 1.5), 'not read as a sampler'),
  ('UniPCMultistepScheduler', DYNAMIC | {'sample_max_value': 1.5},
   (True, 0.9, 1.5), 'not read as a sampler'),
  ('UniPCMultistepScheduler', DYNAMIC | {'predict_x0': False},
   (False, 0.0, None), 'not read as a sampler'),
]  # fmt: skip
BOUND = 'clip', 'dynamic_threshold', 'dynamic_threshold_max'


@pytest.mark.parametrize('kind, options, bound, note', READ)
def test_what_is_read_of_a_scheduler(kind, options, bound, note):
  """x_0 is bounded as in diffusers 0.42; what differs is said."""
  sections, notes = diffusers_schedulers.read_sections({'_class_name': kind, **options})
  sampling = sections['sampling']
  assert tuple(sampling[name] for name in BOUND) == bound
  assert len(notes) == bool(note) and note in ''.join(notes)
  sections |= {'objective': {'name': 'denoising'}}
  again, _ = diffusers_schedulers.read_sections(diffusers_schedulers.write_config(sections))
  assert all(again['sampling'][n] == sampling[n] for n in BOUND)


def test_defaults_are_those_of_the_class():
  heun, _ = diffusers_schedulers.read_sections(
    {'_class_name': 'HeunDiscreteScheduler', 'num_train_timesteps': 20}
  )
  schedule = {'name': 'linear', 'num_steps': 20, **{'start': 0.00085, 'end': 0.012}}
  assert heun['schedule'] == schedule
  assert heun['sampling']['spacing'] == 'linspace'
  assert heun['sampling']['num_steps'] == 20  # not 50
  for options in {'use_flow_sigmas': True}, {'timestep_type': 'continuous'}:
    with pytest.raises(ValueError, match=f'{[*options][0]}=.* has no counterp'):
      diffusers_schedulers.read_sections({'_class_name': DPM, **options})


@pytest.fixture
def copy(tmp_path):
  """Returns a function: (name, file, changes of this JSON file) -> a folder."""

  def make(name='ho', file='config.json', **changes):
    shutil.copytree(STORED / name, tmp_path / name, dirs_exist_ok=True)
    path = tmp_path / name / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / name

  return make


def index(folder, kind, **parts):
  """Writes the index of a pipeline of this class."""
  (folder / 'model_index.json').write_text(json.dumps({'_class_name': kind, **parts}))


def refused(path, message, **options):
  with pytest.raises(ValueError, match=message) as error:
    diffusers.load(path, **options)
  assert '\n' not in str(error.value)


SCHEDULER = 'scheduler_config.json'
REFUSED = {
  ('ho', 'config.json'): (
    ({'_class_name': 'UNet2DConditionModel'}, 'is a folder of the class UNet2'),
    ({'_class_name': None}, 'is a folder of the class None: give'),
    ({'center_input_sample': True}, 'center_input_sample=True has no counterp'),
    ({'time_embedding_type': 'fourier'}, "time_embedding_type='fourier' has "),
    ({'act_fn': 'gelu'}, "act_fn='gelu' .* it can be 'silu'"),
    ({'class_embed_type': 'timestep'}, "class_embed_type='timestep' has "),
    ({'mid_block_scale_factor': 2}, 'mid_block_scale_factor=2 has no counterp'),
    ({'time_embedding_dim': 7}, 'time_embedding_dim=7 has no counterpart'),
    ({'freq_shift': 0.5}, 'freq_shift=0.5 has no counterpart'),
    ({'attn_norm_num_groups': 4}, 'attn_norm_num_groups=4 has no counterpart'),
    ({'in_channels': 3}, 'out_channels=1 has no counterpart'),
    ({'sample_size': None}, 'sample_size=None must be the size'),
    ({'brand_new': 3}, 'unknown options of UNet2DModel: brand_new; known are'),
    ({'down_block_types': ['DownBlock2D', 'SkipDownBlock2D']},
     'down_block_types=.*SkipDown.* the types can be DownBlock2D, '),
    ({'up_block_types': ['UpBlock2D', 'AttnUpBlock2D']},
     'up_block_types=.* attention is at other levels on the way down'),
    ({'down_block_types': ['ResnetDownsampleBlock2D', 'AttnDownBlock2D']},
     'by residual blocks at some levels and by convolutions at othe'),
    ({'down_block_types': ['DownBlock2D']}, 'has 1 blocks, and block_out_chan'),
    ({'block_out_channels': [8, 16]}, r'shape: .*\(12,\) for .*\(16,\)'),
    # four blocks of 10, 10, 12 and 12 tensors, two attentions of 10
    ({'layers_per_block': 2},
     'the network of config.json: missing: .* and 54 more'),
  ),
  ('autoencoder', 'config.json'): (
    ({'shift_factor': 0.1}, 'shift_factor=0.1 has no counterpart'),
    ({'use_quant_conv': False}, 'use_post_quant_conv=True has no counterpart'),
    ({'up_block_types': ['UpDecoderBlock2D', 'AttnUpDecoderBlock2D']},
     'up_block_types=.*AttnUpDecoderBlock2D.* has no counterpart'),
    ({'layers_per_block': 0}, 'num_blocks must be an integer of at least 1'),
  ),
  ('ho', SCHEDULER): (
    ({'_class_name': 'KarrasVeScheduler'}, "scheduler='KarrasVeScheduler' has"),
    ({'beta_schedule': 'laplace'}, "beta_schedule='laplace' has no counterpar"),
    ({'prediction_type': 'flow'}, "prediction_type='flow' has no counterpart"),
    ({'clip_sample_range': 2.0}, 'clip_sample_range=2.0 has no counterpart'),
    ({'variance_type': 'learned'}, "variance_type='learned' has no counterpar"),
    ({'steps_offset': 1}, 'steps_offset=1 has no counterpart'),
    ({'variance_type': 'learned_range'}, 'learned_range has twice the channel'),
    ({'thresholding': True, 'sample_max_value': -1.0},
     r'sample_max_value=-1.0 has no counterpart here: it must be a number in'),
    ({'thresholding': True, 'dynamic_thresholding_ratio': 0.0},
     r'dynamic_thresholding_ratio=0.0 has no .* a number in \(0, 1\]'),
    ({'trained_betas': [0.1, 0.2], 'num_train_timesteps': 3},
     'num_train_timesteps=3 has no counterpart here: it can be 2'),
    ({'brand_new': 3}, 'unknown options of DDPMScheduler: brand_new; k'),
  ),
}  # fmt: skip


@pytest.mark.parametrize(
  'file, changes, message', [(file, *row) for file, rows in REFUSED.items() for row in rows]
)
def test_what_we_lack_is_refused_by_name(copy, file, changes, message):
  refused(copy(*file, **changes), message)


def test_other_folders_are_refused(copy, tmp_path):
  refused(tmp_path / 'none', 'there is no folder')
  refused(tmp_path, 'is not a folder of diffusers: it does not contain config')
  folder = copy()
  refused(folder, 'null_class needs a class-conditional', null_class=True)
  unet = ['diffusers', 'UNet2DModel']
  index(folder, 'StableDiffusionPipeline', unet=unet, vae=['diffusers', 'KL'])
  refused(folder, r'a StableDiffusionPipeline with unet .*, vae \(KL\): give')
  (folder / 'model_index.json').unlink()
  (folder / 'config.json').write_text('[1]')
  refused(folder, 'it is a JSON list, not an object')
  (folder / 'config.json').write_text('{')
  refused(folder, 'config.json cannot be read as JSON')
  folder = copy('labels')
  rest = files.read_tensors(folder / WEIGHTS)
  del rest['class_embedding.weight']
  safetensors.numpy.save_file(rest, folder / WEIGHTS)
  refused(folder, 'missing: class_embedding.weight$')
  (folder / WEIGHTS).unlink()
  refused(folder, 'does not contain any of diffusion_pytorch_model')


def test_pipelines_and_files_are_found(copy, tmp_path):
  """Current pipelines have subfolders; old ones have all files in one."""
  folder = copy()
  expected = diffusers.load(folder)
  unet = ['diffusers', 'UNet2DModel']
  index(folder, 'DDPMPipeline', scheduler=['diffusers', 'DDPMScheduler'], unet=unet)
  pipeline = tmp_path / 'pipeline'
  diffusers.save(pipeline, *expected[:4])
  for path in (folder, pipeline, pipeline / 'unet', folder / WEIGHTS):
    found = diffusers.load(path)
    same(found.params, expected.params)
    assert found.sections == expected.sections and not found.notes


def test_the_transformer_of_a_pipeline_is_found(copy, tmp_path):
  """facebook/DiT-XL-2-256 has such a class name and a solver of 2022."""
  expected = diffusers.load(STORED / 'dit')
  pipeline = tmp_path / 'DiT'
  diffusers.save(pipeline, *expected[:4])
  found = diffusers.load(pipeline)  # as written: without a model_index.json
  same(found.params, expected.params)
  assert found.sections == diffusers.load(pipeline / 'transformer').sections

  shutil.copytree(STORED / 'autoencoder', pipeline / 'vae')
  parts = {
    'id2label': {'0': 'tench, Tinca tinca'},
    'scheduler': ['diffusers', 'DPMSolverMultistepScheduler'],
    'transformer': ['diffusers', 'Transformer2DModel'],
    'vae': ['diffusers', 'AutoencoderKL'],
  }
  index(pipeline, 'DiTPipeline', **parts)
  found = diffusers.load(pipeline)
  same(found.params, expected.params)
  assert found.notes[-1].startswith('this model makes latents of the Autoencod')
  assert diffusers.load(pipeline / 'vae').sections['decoding']['scale'] == 0.18215
  index(pipeline, 'DiTPipeline', **parts, text_encoder=['transformers', 'CLIPTextModel'])
  refused(pipeline, r'is a DiTPipeline with .*text_encoder \(CLIPTextModel\)')


def test_what_diffusers_lacks_is_not_written(tmp_path):
  found, out = diffusers.load(STORED / 'labels'), tmp_path / 'out'
  network, params, sections, facts = found[:4]

  def lacks(message, network=network, sections=sections, **label):
    with pytest.raises(ValueError, match=message):
      diffusers.save(out, network, params, sections, facts, **label)
    assert not out.exists()

  process = {'schedule': 'karras', 'parametrization': 'edm'}
  for section, name in (process | {'noise_input': 'logsnr'}).items():
    message = f"{section}='{name}' has no counterpart in diffusers: it "
    lacks(message, sections=sections | {section: {'name': name}})
  lacks('image_channels=1 has no counterpart', network.clone(inputs=Inputs(image_channels=1)))
  for field, value in ('qkv', 'legacy'), ('stem_channels', 4):
    lacks(f'{field}={value!r} has no counterpart', network.clone(**{field: value}))
  lacks('label=3: this network has 3 classes', label=3)
  lacks('and no null class', label=-1)
  # one width with attention: 12 / 2
  diffusers.save(out, network.clone(num_heads=2, head_channels=None), *found[1:4])
  assert diffusers.load(out).network.head_channels == 6
  with pytest.raises(ValueError, match='already contains files'):
    diffusers.save(out, *found[:4])


def test_a_class_becomes_part_of_the_weights():
  """A network without classes is one whose embeddings of them are zero."""
  found, expected = loaded('labels')
  zero = jax.tree.map(np.zeros_like, found.params['label_embedding'])
  for i, label in enumerate(expected['label']):
    network, params = diffusers.fix_label(found.network, found.params, label)
    assert network == found.network.clone(inputs=Inputs())
    assert params.keys() == found.params.keys() - {'label_embedding'}
    params = {**params, 'label_embedding': zero}
    output = run(found.network, params, *inputs_of('labels', expected))
    assert_close(output[i], expected['output'][i])


def test_widths_come_back_from_multipliers():
  for first in range(1, 130):
    for width in range(1, 400, 7):
      _, m = multipliers((first, width))
      assert int(first * m) == width

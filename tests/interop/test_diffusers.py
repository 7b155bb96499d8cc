"""Folders of diffusers without torch: stored/ has their networks' outputs."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.autoencoders.networks import Autoencoder
from diffusion_jax.interop import diffusers, weight_files
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.training.lora import lora_init, lora_merge
from tests.interop.literal import assert_close, random_like, run
from tests.interop.stored_folders import STORED, WEIGHTS, folder_with, loaded, refused, same
from tests.transcribed import transcribes


def inputs_of(name, expected):
  """Returns x, t and cond; class 3 of the transformer is the null class."""
  cond, label = {}, expected.get('label')
  if name != 'ho':
    cond = {'label': label % 3}
    cond |= {'drop': label == 3} if name == 'dit' else {}
  return expected['x'], expected['t'].astype(np.float32), cond


@transcribes(
  'DiT (Peebles & Xie 2023); JiT (Li & He 2025)',
  "DiT's network",
  '`networks.transformer.DiT`',
)
@pytest.mark.parametrize('name', ['ho', 'labels', 'dit'])
def test_the_network_computes_what_theirs_does(name, tmp_path):
  found, expected = loaded(name)
  assert_close(run(found.network, found.params, *inputs_of(name, expected)), expected['output'])

  diffusers.save(tmp_path / 'ours', *found[:4])
  if name == 'dit':
    assert found.sections['objective'] == {'name': 'hybrid'}
    written = weight_files.read_tensors(tmp_path / 'ours' / 'transformer' / WEIGHTS)
    same(written, weight_files.read_tensors(STORED / 'dit' / WEIGHTS))
    ours, theirs = (
      weight_files.read_json(folder / 'config.json')
      for folder in (tmp_path / 'ours' / 'transformer', STORED / 'dit')
    )
    assert ours == {option: theirs.get(option) for option in ours}
    return
  classes = {'num_classes': 3} if name == 'labels' else {}
  assert found.facts == {'image_shape': (4, 4, 1)} | classes
  again = diffusers.load(tmp_path / 'ours')
  same(again.params, found.params)
  assert again.network == found.network and again.facts == found.facts
  assert again.sections == found.sections


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
      assert_array_equal(after[weight], w)
      continue
    a = written.pop(f'{module}lora_A.weight')
    b = written.pop(f'{module}lora_B.weight')
    assert a.shape == (2, *w.shape[1:])
    assert b.shape == (len(w), 2, *[1] * (w.ndim - 2))
    product = np.tensordot(b.reshape(len(w), 2), a, axes=1)
    assert_allclose(after[weight], w + product, rtol=0, atol=1e-5)
  assert not written
  other = Autoencoder(image_size=(8, 8), out_channels=1)
  with pytest.raises(ValueError, match='adapters of Autoencoder have no names'):
    diffusers.adapters_of(other, adapters, 0.5, shape)


def index(folder, kind, **parts):
  (folder / 'model_index.json').write_text(json.dumps({'_class_name': kind, **parts}))


def test_other_folders_are_refused(tmp_path):
  refused(tmp_path / 'none', 'there is no folder')
  refused(tmp_path, 'is not a folder of diffusers: it does not contain config')
  folder = folder_with(tmp_path)
  refused(folder, 'null_class needs a class-conditional', null_class=True)
  unet = ['diffusers', 'UNet2DModel']
  index(folder, 'StableDiffusionPipeline', unet=unet, vae=['diffusers', 'KL'])
  refused(folder, r'a StableDiffusionPipeline with unet .*, vae \(KL\): give')
  (folder / 'model_index.json').unlink()
  (folder / 'config.json').write_text('[1]')
  refused(folder, 'it is a JSON list, not an object')
  (folder / 'config.json').write_text('{')
  refused(folder, 'config.json cannot be read as JSON')
  folder = folder_with(tmp_path, 'labels')
  rest = weight_files.read_tensors(folder / WEIGHTS)
  del rest['class_embedding.weight']
  safetensors.numpy.save_file(rest, folder / WEIGHTS)
  refused(folder, 'missing: class_embedding.weight$')
  (folder / WEIGHTS).unlink()
  refused(folder, 'does not contain any of diffusion_pytorch_model')


def test_pipelines_and_files_are_found(tmp_path):
  folder = folder_with(tmp_path)
  expected = diffusers.load(folder)
  unet = ['diffusers', 'UNet2DModel']
  index(folder, 'DDPMPipeline', scheduler=['diffusers', 'DDPMScheduler'], unet=unet)
  pipeline = tmp_path / 'pipeline'
  diffusers.save(pipeline, *expected[:4])
  for path in (folder, pipeline, pipeline / 'unet', folder / WEIGHTS):
    found = diffusers.load(path)
    same(found.params, expected.params)
    assert found.sections == expected.sections and not found.notes


def test_the_transformer_of_a_pipeline_is_found(tmp_path):
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
  dit = diffusers.load(STORED / 'dit', noise_embedding='openai')  # as in DiT's release
  assert dit.network == diffusers.load(STORED / 'dit').network.clone(noise_embedding='openai')
  lacks('noise_embedding', dit.network, dit.sections)
  lacks('label=1: only pipelines of a U-Net give no class; those of DiT', dit.network, label=1)
  # one width with attention: 12 / 2
  diffusers.save(out, network.clone(num_heads=2, head_channels=None), *found[1:4])
  assert diffusers.load(out).network.head_channels == 6
  with pytest.raises(ValueError, match='already contains files'):
    diffusers.save(out, *found[:4])


def test_a_class_becomes_part_of_the_weights():
  """A network without classes is one whose embeddings of them are zero."""
  found, (plain, expected) = diffusers.load(STORED / 'labels', null_class=True), loaded('labels')
  zero = jax.tree.map(np.zeros_like, plain.params['label_embedding'])
  for i, label in enumerate(expected['label']):  # the last class is the null class
    network, params = diffusers.fix_label(found.network, found.params, -1 if label == 2 else label)
    assert network == found.network.clone(inputs=Inputs())
    assert params.keys() == found.params.keys() - {'label_embedding'}
    params = {**params, 'label_embedding': zero}
    output = run(plain.network, params, *inputs_of('labels', expected))
    assert_close(output[i], expected['output'][i])

"""DiT against diffusers' DiTTransformer2DModel, with random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import diffusers as interop

CHANNELS, CLASSES, SIZE = 4, 5, 8
STEPS, LABELS = np.array([0, 3, 250, 999]), np.array([0, 4, 2, CLASSES])
OPTIONS = {
  'num_attention_heads': 2,
  'attention_head_dim': 8,
  'in_channels': CHANNELS,
  'out_channels': 2 * CHANNELS,
  'num_layers': 3,
  'sample_size': SIZE,
  'patch_size': 2,
  'num_embeds_ada_norm': CLASSES,
  'norm_eps': 1e-6,  # as in the release
}


@pytest.fixture(scope='module')
def theirs():
  """One embedding of noise and label in all blocks, as in the release."""
  package = pytest.importorskip('diffusers')
  import torch

  torch.manual_seed(0)
  network = package.DiTTransformer2DModel(**OPTIONS).eval()
  with torch.no_grad():
    for x in network.parameters():
      x.normal_(0.0, 0.15)
  first = network.transformer_blocks[0].norm1.emb.state_dict()
  for block in network.transformer_blocks:
    block.norm1.emb.load_state_dict(first)
  return network


def images():
  return np.random.default_rng(0).normal(size=(4, SIZE, SIZE, CHANNELS)).astype(np.float32)


def run(network):
  import torch

  with torch.no_grad():
    out = network(
      torch.from_numpy(images()).permute(0, 3, 1, 2),
      timestep=torch.from_numpy(STEPS),
      class_labels=torch.from_numpy(LABELS),
    ).sample
  return out.permute(0, 2, 3, 1).numpy()


def check(found, expected):
  """Labels, including the null class, at the first and last steps."""
  null = LABELS == CLASSES
  cond = {'label': jnp.where(null, 0, LABELS), 'drop': jnp.asarray(null)}
  out = found.network.apply({'params': found.params}, images(), jnp.float32(STEPS), cond)
  assert np.abs(np.asarray(out) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('frequencies', ['ho', 'openai'])
def test_dit_is_that_of_diffusers(theirs, frequencies, tmp_path):
  """The frequencies are diffusers' or from DiT's release."""
  import torch

  theirs.save_pretrained(tmp_path / 'theirs')
  shift = int(frequencies == 'ho')
  for block in theirs.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = shift
  options = {} if shift else {'noise_embedding': 'openai'}
  found = interop.load(tmp_path / 'theirs', **options)
  expected = run(theirs)
  check(found, expected)
  assert len(found.notes) == 1 + shift  # the scheduler, and the frequencies
  if not shift:
    with pytest.raises(ValueError, match='noise_embedding'):
      interop.save(tmp_path / 'ours', *found[:4])
    return

  interop.save(tmp_path / 'ours', *found[:4])
  again = type(theirs).from_pretrained(tmp_path / 'ours' / 'transformer').eval()
  for key, tensor in theirs.state_dict().items():
    assert torch.equal(again.state_dict()[key], tensor), key
  assert {n: again.config[n] for n in OPTIONS} == OPTIONS
  assert np.array_equal(run(again), expected)


def test_ditpipeline_runs_on_ours(theirs, tmp_path):
  """The folder has the older class name, as DiT's release does."""
  package = pytest.importorskip('diffusers')
  import torch

  config = {**dict(theirs.config), '_class_name': 'Transformer2DModel'}
  theirs.save_pretrained(tmp_path / 'theirs')
  interop.write_json(tmp_path / 'theirs' / 'config.json', config)
  interop.save(tmp_path / 'ours', *interop.load(tmp_path / 'theirs')[:4])
  folder = tmp_path / 'ours'
  vae = package.AutoencoderKL(norm_num_groups=4, block_out_channels=(4,))
  pipeline = package.DiTPipeline(
    package.DiTTransformer2DModel.from_pretrained(folder / 'transformer'),
    vae,
    package.DDIMScheduler.from_pretrained(folder / 'scheduler'),
  )
  pipeline.set_progress_bar_config(disable=True)
  out = pipeline(
    [0, 4],
    guidance_scale=1.0,
    num_inference_steps=2,
    output_type='np',
    generator=torch.manual_seed(0),
  )
  assert out.images.shape == (2, SIZE, SIZE, 3)
  assert np.isfinite(out.images).all()

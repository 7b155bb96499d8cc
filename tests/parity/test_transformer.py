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
  make_stored = pytest.importorskip('tests.interop.make_stored')
  network = package.DiTTransformer2DModel(**OPTIONS).eval()
  for x in network.parameters():
    x.detach().normal_(0.0, 0.15)
  return make_stored.equal_embeddings(network)


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

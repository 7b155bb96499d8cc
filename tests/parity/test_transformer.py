"""DiT against diffusers' DiTTransformer2DModel, with random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import diffusers as interop

torch = pytest.importorskip('torch')
make_stored = pytest.importorskip('tests.interop.make_stored')

STEPS, LABELS = np.array([0, 3, 250, 999]), np.array([0, 1, 2, 3])  # 3 is the null class
IMAGES = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def theirs():
  """Makes the network of diffusers, with one embedding in all blocks, as in the release."""
  network = make_stored.diffusers.DiTTransformer2DModel(**make_stored.DIT).eval()
  for x in network.parameters():
    x.detach().normal_(0.0, 0.15)
  return make_stored.equal_embeddings(network)


def run(network):
  x, steps, labels = map(torch.from_numpy, (IMAGES, STEPS, LABELS))
  with torch.no_grad():
    out = network(x.permute(0, 3, 1, 2), timestep=steps, class_labels=labels).sample
  return out.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize('frequencies', ['ho', 'openai'])
def test_dit_is_that_of_diffusers(theirs, frequencies, tmp_path):
  """The frequencies are diffusers' or from DiT's release."""
  theirs.save_pretrained(tmp_path / 'theirs')
  shift = int(frequencies == 'ho')
  for block in theirs.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = shift
  options = {} if shift else {'noise_embedding': 'openai'}
  found = interop.load(tmp_path / 'theirs', **options)
  cond = {'label': jnp.asarray(LABELS % 3), 'drop': jnp.asarray(LABELS == 3)}
  out = found.network.apply({'params': found.params}, IMAGES, jnp.float32(STEPS), cond)
  expected = run(theirs)
  assert np.abs(np.asarray(out) - expected).max() < 1e-5 * np.abs(expected).max()
  assert len(found.notes) == 1 + shift  # the scheduler, and the frequencies
  if not shift:
    with pytest.raises(ValueError, match='noise_embedding'):
      interop.save(tmp_path / 'ours', *found[:4])
    return

  interop.save(tmp_path / 'ours', *found[:4])
  again = type(theirs).from_pretrained(tmp_path / 'ours' / 'transformer').eval()
  for key, tensor in theirs.state_dict().items():
    assert torch.equal(again.state_dict()[key], tensor), key
  assert {name: again.config[name] for name in make_stored.DIT} == make_stored.DIT
  assert np.array_equal(run(again), expected)

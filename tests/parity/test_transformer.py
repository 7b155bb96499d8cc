"""DiT against diffusers' DiTTransformer2DModel, by random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.transformer import DiT

DEPTH, HEADS, SIZE, PATCH, CHANNELS, CLASSES = 3, 2, 8, 2, 4, 5
WIDTH = 16


@pytest.fixture(scope='module')
def theirs():
  """One embedding of noise and label for all blocks, as in the release."""
  diffusers = pytest.importorskip('diffusers')
  import torch

  torch.manual_seed(0)
  network = diffusers.DiTTransformer2DModel(
    num_attention_heads=HEADS,
    attention_head_dim=WIDTH // HEADS,
    in_channels=CHANNELS,
    out_channels=2 * CHANNELS,
    num_layers=DEPTH,
    sample_size=SIZE,
    patch_size=PATCH,
    num_embeds_ada_norm=CLASSES,
    norm_eps=1e-6,  # that of the release
  ).eval()
  with torch.no_grad():
    for x in network.parameters():
      x.normal_(0.0, 0.15)
    first = network.transformer_blocks[0].norm1.emb
    # 0 is the release's: diffusers' last frequency is 1e-4
    first.time_proj.downscale_freq_shift = 0
    for block in network.transformer_blocks:
      block.norm1.emb = first
  return network


def linear(layer):
  return {
    'kernel': layer.weight.detach().numpy().T,
    'bias': layer.bias.detach().numpy(),
  }


def joined(*layers):
  """Several linear maps of one input as one."""
  parts = [linear(layer) for layer in layers]
  return {
    name: np.concatenate([part[name] for part in parts], axis=-1)
    for name in ('kernel', 'bias')
  }


def our_params(network):
  embedding = network.transformer_blocks[0].norm1.emb
  noise, label = embedding.timestep_embedder, embedding.class_embedder
  patches = network.pos_embed.proj.weight.detach().numpy()  # [D, C, p, p]
  blocks = [
    {
      'modulation': linear(block.norm1.linear),
      'qkv': joined(block.attn1.to_q, block.attn1.to_k, block.attn1.to_v),
      'proj': linear(block.attn1.to_out[0]),
      'mlp_in': linear(block.ff.net[0].proj),
      'mlp_out': linear(block.ff.net[2]),
    }
    for block in network.transformer_blocks
  ]
  table = label.embedding_table.weight.detach().numpy()
  return {
    'noise_dense_1': linear(noise.linear_1),
    'noise_dense_2': linear(noise.linear_2),
    'label_embedding': {'table': {'embedding': table}},
    'patch_embedding': {
      'kernel': patches.transpose(2, 3, 1, 0).reshape(-1, WIDTH),
      'bias': network.pos_embed.proj.bias.detach().numpy(),
    },
    'blocks_0': jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    'modulation_out': linear(network.proj_out_1),
    'patch_out': linear(network.proj_out_2),
  }


def test_dit_is_that_of_diffusers(theirs):
  """Labels, the null class among them, at the ends of the steps."""
  import torch

  ours = DiT(
    WIDTH, DEPTH, HEADS, PATCH, 2 * CHANNELS,
    num_classes=CLASSES, null_class=True,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, SIZE, SIZE, CHANNELS)).astype(np.float32)
  steps, labels = np.array([0, 3, 250, 999]), np.array([0, 4, 2, CLASSES])
  with torch.no_grad():
    expected = theirs(
      torch.from_numpy(x).permute(0, 3, 1, 2),
      timestep=torch.from_numpy(steps),
      class_labels=torch.from_numpy(labels),
    ).sample
  expected = expected.permute(0, 2, 3, 1).numpy()
  cond = {
    'label': jnp.minimum(labels, CLASSES - 1),
    'drop': jnp.asarray(labels == CLASSES),
  }
  params = {'params': our_params(theirs)}
  found = ours.apply(params, jnp.asarray(x), jnp.float32(steps), cond)
  error = np.abs(np.asarray(found) - expected).max(axis=(1, 2, 3))
  assert error.max() < 1e-5 * np.abs(expected).max()

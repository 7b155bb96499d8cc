"""A DiT of diffusers is refused if its blocks embed noise and label differently."""

import safetensors.numpy

from diffusion_jax.interop import files
from tests.interop.stored_folders import STORED, WEIGHTS, folder_with, refused


def test_embeddings_of_a_transformer_must_be_equal(tmp_path):
  folder, tensors = folder_with(tmp_path, 'dit'), files.read_tensors(STORED / 'dit' / WEIGHTS)
  name = 'transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias'
  for changed, message in (
    ({name: tensors[name] + 1.0}, 'one embedding of noise and label'),
    ({'transformer_blocks.2.attn1.to_q.bias': tensors[name]}, 'not used'),
  ):
    safetensors.numpy.save_file(tensors | changed, folder / WEIGHTS)
    refused(folder, message)

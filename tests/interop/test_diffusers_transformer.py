"""A DiT of diffusers: its one embedding of noise and label, and its blocks, in any stacks."""

import jax
import safetensors.numpy

from diffusion_jax.interop import diffusers, weight_files
from diffusion_jax.training.lora import lora_init
from tests.interop.literal import random_like
from tests.interop.stored_folders import STORED, WEIGHTS, folder_with, refused, same
from tests.networks.literal import shapes


def test_embeddings_of_a_transformer_must_be_equal(tmp_path):
  folder = folder_with(tmp_path, 'dit')
  tensors = weight_files.read_tensors(STORED / 'dit' / WEIGHTS)
  name = 'transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias'
  for changed, message in (
    ({name: tensors[name] + 1.0}, 'one embedding of noise and label'),
    ({'transformer_blocks.2.attn1.to_q.bias': tensors[name]}, 'not used'),
  ):
    safetensors.numpy.save_file(tensors | changed, folder / WEIGHTS)
    refused(folder, message)


def test_blocks_in_several_stacks_are_written_as_those_in_one():
  """`routing_ends` makes stacks, here one of each block; planted fault: `separate` of the first."""
  shape = 4, 4, 1
  whole = diffusers.load(STORED / 'dit').network.clone(num_blocks=3)
  routed = whole.clone(routing=0.5, routing_ends=1)
  params = random_like(shapes(whole, 4, 1))
  init = lambda params: lora_init(jax.random.key(0), params, rank=2)
  adapters = random_like(jax.eval_shape(init, params))

  def split(tree):
    stacks = (jax.tree.map(lambda x, i=i: x[i : i + 1], tree['blocks_0']) for i in range(3))
    return {**tree, **{f'blocks_{i}': stack for i, stack in enumerate(stacks)}}

  assert jax.tree.map(lambda x: x.shape, split(params)) == jax.tree.map(
    lambda x: x.shape, dict(shapes(routed, 4, 1))
  )
  same(diffusers.tensors_of(routed, split(params)), diffusers.tensors_of(whole, params))
  apart = {name: split(tree) for name, tree in adapters.items()}
  found = diffusers.adapters_of(routed, apart, 0.5, shape)
  same(found, diffusers.adapters_of(whole, adapters, 0.5, shape))

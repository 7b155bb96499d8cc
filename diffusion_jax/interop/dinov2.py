"""Weights of DINOv2, from transformers' files (facebook/dinov2-large)."""

import re
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.interop import names
from diffusion_jax.interop.weight_files import read_tensors, reading
from diffusion_jax.networks.dinov2 import SIDE, DinoV2, preprocess

FILES = ('model.safetensors', 'dinov2-large/model.safetensors')
WHERE = 'model.safetensors of facebook/dinov2-large (-base, -small) on the Hugging Face hub'
TITLE = 'DINOv2 ViT of width {width}, depth {depth}'
HOW = "antialiased bicubic resize to 224, ImageNet's mean and deviation"
PREPROCESS = preprocess
HEAD_WIDTH = 64  # the width of a head in all of DINOv2's networks
_MASK = 'embeddings.mask_token'  # used by the pretraining only
LAYERS = names.table(
  """
  class_token        embeddings.cls_token
  positions          embeddings.position_embeddings
  patches            embeddings.patch_embeddings.projection
  norm               layernorm
  block_{i}/scale_1  encoder.layer.{i}.layer_scale1.lambda1
  block_{i}/scale_2  encoder.layer.{i}.layer_scale2.lambda1
  block_{i}/norm_1   encoder.layer.{i}.norm1
  block_{i}/norm_2   encoder.layer.{i}.norm2
  block_{i}/query    encoder.layer.{i}.attention.attention.query
  block_{i}/key      encoder.layer.{i}.attention.attention.key
  block_{i}/value    encoder.layer.{i}.attention.attention.value
  block_{i}/out      encoder.layer.{i}.attention.output.dense
  block_{i}/mlp_in   encoder.layer.{i}.mlp.fc1
  block_{i}/mlp_out  encoder.layer.{i}.mlp.fc2
  """
)


def read(path: str | Path) -> tuple[DinoV2, names.Params, names.Tensors]:
  """Returns (network, parameters, weights), from a file or its index.

  The tensors give the width, depth and grid; a head has 64 channels. Raises
  ValueError in one line for another file.
  """
  with reading(path, f'DINOv2 ViT-S/14, B/14 or L/14, {WHERE}'):
    tensors = read_tensors(path)
    network = network_of(tensors)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)['params']
    table = names.entries(names.expand(LAYERS, network.depth), shapes)
    return network, names.read(table, tensors, shapes, lambda name: name == _MASK), tensors


def network_of(tensors: names.Tensors) -> DinoV2:
  """Returns the network with the sizes of these weights."""
  name = 'embeddings.position_embeddings'
  shape = np.shape(names.find(tensors, name))
  names.require(
    len(shape) == 3 and shape[2] % HEAD_WIDTH == 0,
    f'{name} has the shape {shape}, not [1, places, width]',
  )
  matches = [re.match(r'encoder\.layer\.(\d+)\.', n) for n in tensors]
  depth = 1 + max((int(match[1]) for match in matches if match), default=-1)
  grid = round((shape[1] - 1) ** 0.5)
  return DinoV2(shape[2], depth, shape[2] // HEAD_WIDTH, grid)

"""Weights of DINOv2, from transformers' files (facebook/dinov2-large)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.names import CONV, LINEAR, SAME, Entry, Rule, read
from diffusion_jax.networks.dinov2 import SIDE, DinoV2

FILES = ('model.safetensors', 'dinov2-large/model.safetensors')
WHERE = (
  'model.safetensors of facebook/dinov2-large (-base, -small) on the Hugging '
  'Face hub'
)
HEAD_WIDTH = 64  # of all of DINOv2's networks
_MASK = 'embeddings.mask_token'  # used by the pretraining alone
_FIRST = Rule(lambda x: x[0], lambda x: x[None])
_CLASS = Rule(lambda x: x[0, 0], lambda x: x[None, None])
_LINEAR = {
  'query': 'attention.attention.query',
  'key': 'attention.attention.key',
  'value': 'attention.attention.value',
  'out': 'attention.output.dense',
  'mlp_in': 'mlp.fc1',
  'mlp_out': 'mlp.fc2',
}


def entries(depth: int) -> list[Entry]:
  """Returns the table of names of transformers' Dinov2Model."""
  table = [
    Entry('class_token', 'embeddings.cls_token', _CLASS),
    Entry('positions', 'embeddings.position_embeddings', _FIRST),
    *_layer('patches', 'embeddings.patch_embeddings.projection', CONV),
    *_norm('norm', 'layernorm'),
  ]
  for i in range(depth):
    ours, theirs = f'block_{i}', f'encoder.layer.{i}'
    for n in (1, 2):
      table += _norm(f'{ours}/norm_{n}', f'{theirs}.norm{n}')
      name = f'{theirs}.layer_scale{n}.lambda1'
      table.append(Entry(f'{ours}/scale_{n}', name, SAME))
    for name, other in _LINEAR.items():
      table += _layer(f'{ours}/{name}', f'{theirs}.{other}', LINEAR)
  return table


def read_params(path: str | Path) -> tuple[DinoV2, dict]:
  """Returns the network and its parameters, from a file or its index.

  Width, depth and grid are those of the tensors; a head has 64 channels. Raises
  ValueError in one line for another file.
  """
  tensors = read_tensors(path)
  try:
    network = network_of(tensors)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)['params']
    table = entries(network.depth)
    return network, read(table, tensors, shapes, lambda name: name == _MASK)
  except ValueError as error:
    raise ValueError(
      f'{path} has not the weights of a DINOv2 ViT-S/14, B/14 or L/14, which '
      f'are in {WHERE}: {error}'
    ) from error


def network_of(tensors: Mapping[str, Any]) -> DinoV2:
  """Returns the network whose weights these are."""
  name = 'embeddings.position_embeddings'
  if name not in tensors:
    raise ValueError(f'{name} is missing')
  shape = np.shape(tensors[name])
  if len(shape) != 3 or shape[2] % HEAD_WIDTH:
    raise ValueError(f'{name} has the shape {shape}, not [1, places, width]')
  numbers = [re.match(r'encoder\.layer\.(\d+)\.', n) for n in tensors]
  depth = 1 + max((int(found[1]) for found in numbers if found), default=-1)
  grid = round((shape[1] - 1) ** 0.5)
  return DinoV2(shape[2], depth, shape[2] // HEAD_WIDTH, grid)


def _layer(ours, theirs, rule):
  return [
    Entry(f'{ours}/kernel', f'{theirs}.weight', rule),
    Entry(f'{ours}/bias', f'{theirs}.bias', SAME),
  ]


def _norm(ours, theirs):
  return [
    Entry(f'{ours}/scale', f'{theirs}.weight', SAME),
    Entry(f'{ours}/bias', f'{theirs}.bias', SAME),
  ]

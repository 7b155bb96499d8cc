"""Weights of DINOv2 in the layout of transformers' files."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from diffusion_jax.interop import dinov2
from tests.refusals import one_line

WIDTH, DEPTH, GRID = 128, 2, 3
SHAPES = {
  'embeddings.cls_token': (1, 1, WIDTH),
  'embeddings.mask_token': (1, WIDTH),
  'embeddings.position_embeddings': (1, 1 + GRID**2, WIDTH),
  'embeddings.patch_embeddings.projection.weight': (WIDTH, 3, 14, 14),
  'embeddings.patch_embeddings.projection.bias': (WIDTH,),
  'layernorm.weight': (WIDTH,),
  'layernorm.bias': (WIDTH,),
}
# Our layers of a block, and theirs.
DENSE = {
  'query': 'attention.attention.query',
  'key': 'attention.attention.key',
  'value': 'attention.attention.value',
  'out': 'attention.output.dense',
  'mlp_in': 'mlp.fc1',
  'mlp_out': 'mlp.fc2',
}
WIDE = {'mlp.fc1': (4 * WIDTH, WIDTH), 'mlp.fc2': (WIDTH, 4 * WIDTH)}
for start in (f'encoder.layer.{i}.' for i in range(DEPTH)):
  for name in DENSE.values():
    shape = WIDE.get(name, (WIDTH, WIDTH))
    SHAPES[f'{start}{name}.weight'] = shape
    SHAPES[f'{start}{name}.bias'] = shape[:1]
  for n in (1, 2):
    for name in (f'norm{n}.weight', f'norm{n}.bias', f'layer_scale{n}.lambda1'):
      SHAPES[start + name] = (WIDTH,)


@pytest.fixture
def tensors():
  rng = np.random.default_rng(0)
  return {n: rng.standard_normal(s, np.float32) for n, s in SHAPES.items()}


def test_a_file_of_transformers_is_read(tensors, tmp_path):
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(tensors, path)
  network, params, _ = dinov2.read(path)
  assert (network.width, network.depth) == (WIDTH, DEPTH)
  assert (network.num_heads, network.grid) == (2, GRID)
  block, layer = params['block_1'], lambda n: tensors[f'encoder.layer.1.{n}']
  patches = tensors['embeddings.patch_embeddings.projection.weight']
  pairs = [
    (params['positions'], tensors['embeddings.position_embeddings'][0]),
    (params['class_token'], tensors['embeddings.cls_token'][0, 0]),
    (params['norm']['bias'], tensors['layernorm.bias']),
    (params['patches']['kernel'][3, 5], patches[:, :, 3, 5].T),
  ]
  for ours, theirs in DENSE.items():
    pairs.append((block[ours]['kernel'], layer(f'{theirs}.weight').T))
    pairs.append((block[ours]['bias'], layer(f'{theirs}.bias')))
  for n in (1, 2):
    pairs.append((block[f'norm_{n}']['scale'], layer(f'norm{n}.weight')))
    pairs.append((block[f'scale_{n}'], layer(f'layer_scale{n}.lambda1')))
  for found, expected in pairs:
    assert_array_equal(found, expected)


PLACES = 'embeddings.position_embeddings'


@pytest.mark.parametrize(
  'name, shape, message',
  [
    ('encoder.layer.1.norm1.bias', None, 'missing: encoder.layer.1.norm1.bias'),
    ('classifier.weight', (4, 4), 'not used: classifier.weight'),
    ('layernorm.bias', (7,), r'layernorm.bias \(7,\) for norm/bias \(128,\)'),
    (PLACES, None, f'missing: {PLACES}'),
    (PLACES, (1, 8, WIDTH), 'of another shape'),
    (PLACES, (8, 100), r'the shape \(8, 100\)'),
  ],
)
def test_another_file_is_refused_in_one_line(tensors, tmp_path, name, shape, message):
  tensors[name] = np.zeros(shape or (), np.float32)
  if shape is None:
    del tensors[name]
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(tensors, path)
  with one_line('facebook/dinov2-large', match=message):
    dinov2.read(path)


def test_sizes_of_the_published_networks():
  for width, depth, heads in ((384, 12, 6), (768, 12, 12), (1024, 24, 16)):
    tensors = {'embeddings.position_embeddings': jax.ShapeDtypeStruct((1, 1370, width), np.float32)}
    tensors |= {f'encoder.layer.{i}.norm1.bias': None for i in range(depth)}
    network = dinov2.network_of(tensors)
    assert (network.width, network.depth) == (width, depth)
    assert (network.num_heads, network.grid, network.position_offset) == (heads, 37, 0.1)

"""Weights of Inception from TensorFlow's graph and from PyTorch's layout."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.interop import inception
from tests.interop import graph_files

# Literal names of both projects, unit by unit: TensorFlow's scopes and
# PyTorch's modules.
A = """
conv branch1x1
tower/conv branch5x5_1
tower/conv_1 branch5x5_2
tower_1/conv branch3x3dbl_1
tower_1/conv_1 branch3x3dbl_2
tower_1/conv_2 branch3x3dbl_3
tower_2/conv branch_pool
"""
B = """
conv branch3x3
tower/conv branch3x3dbl_1
tower/conv_1 branch3x3dbl_2
tower/conv_2 branch3x3dbl_3
"""
C = """
conv branch1x1
tower/conv branch7x7_1
tower/conv_1 branch7x7_2
tower/conv_2 branch7x7_3
tower_1/conv branch7x7dbl_1
tower_1/conv_1 branch7x7dbl_2
tower_1/conv_2 branch7x7dbl_3
tower_1/conv_3 branch7x7dbl_4
tower_1/conv_4 branch7x7dbl_5
tower_2/conv branch_pool
"""
D = """
tower/conv branch3x3_1
tower/conv_1 branch3x3_2
tower_1/conv branch7x7x3_1
tower_1/conv_1 branch7x7x3_2
tower_1/conv_2 branch7x7x3_3
tower_1/conv_3 branch7x7x3_4
"""
E = """
conv branch1x1
tower/conv branch3x3_1
tower/mixed/conv branch3x3_2a
tower/mixed/conv_1 branch3x3_2b
tower_1/conv branch3x3dbl_1
tower_1/conv_1 branch3x3dbl_2
tower_1/mixed/conv branch3x3dbl_3a
tower_1/mixed/conv_1 branch3x3dbl_3b
tower_2/conv branch_pool
"""
BLOCKS = {
  ('mixed', 'Mixed_5b'): A,
  ('mixed_1', 'Mixed_5c'): A,
  ('mixed_2', 'Mixed_5d'): A,
  ('mixed_3', 'Mixed_6a'): B,
  ('mixed_4', 'Mixed_6b'): C,
  ('mixed_5', 'Mixed_6c'): C,
  ('mixed_6', 'Mixed_6d'): C,
  ('mixed_7', 'Mixed_6e'): C,
  ('mixed_8', 'Mixed_7a'): D,
  ('mixed_9', 'Mixed_7b'): E,
  ('mixed_10', 'Mixed_7c'): E,
}
UNITS = {
  'Conv2d_1a_3x3': 'conv',
  'Conv2d_2a_3x3': 'conv_1',
  'Conv2d_2b_3x3': 'conv_2',
  'Conv2d_3b_1x1': 'conv_3',
  'Conv2d_4a_3x3': 'conv_4',
} | {
  f'{torch}.{branch}': f'{scope}/{unit}'
  for (scope, torch), rows in BLOCKS.items()
  for unit, branch in (row.split() for row in rows.split('\n') if row)
}
NORM = {
  'weight': 'gamma',
  'bias': 'beta',
  'running_mean': 'moving_mean',
  'running_var': 'moving_variance',
}


@pytest.fixture(scope='module')
def torch_tensors():
  """Returns random weights in PyTorch's layout."""
  rng = np.random.default_rng(0)

  def random(*shape):
    return rng.standard_normal(shape, np.float32)

  tensors = {'fc.weight': random(1008, 2048), 'fc.bias': random(1008)}
  for unit, parameters in inception._shapes().items():
    if unit == 'fc':
      continue
    height, width, channels, features = parameters['kernel'].shape
    shape = features, channels, height, width
    tensors[f'{unit}.conv.weight'] = random(*shape)
    for name in NORM:
      tensors[f'{unit}.bn.{name}'] = random(features)
  return tensors


@pytest.fixture(scope='module')
def graph(torch_tensors, tmp_path_factory):
  """Returns a file of TensorFlow's graph with the same weights."""
  constants = {
    'softmax/weights': torch_tensors['fc.weight'].T.copy(),
    'softmax/biases': torch_tensors['fc.bias'],
    'mixed/join/concat_dim': np.array(3, np.int32),
  }
  for torch, scope in UNITS.items():
    kernel = torch_tensors[f'{torch}.conv.weight']
    constants[f'{scope}/conv2d_params'] = np.ascontiguousarray(
      kernel.transpose(2, 3, 1, 0)
    )
    for name, other in NORM.items():
      array = torch_tensors[f'{torch}.bn.{name}']
      constants[f'{scope}/batchnorm/{other}'] = array
  path = tmp_path_factory.mktemp('graph') / 'classify_image_graph_def.pb'
  path.write_bytes(graph_files.graph(constants))
  return path


def test_a_graph_has_the_weights_of_the_other_layout(
  torch_tensors, graph, tmp_path
):
  path = tmp_path / 'weights.safetensors'
  steps = {'Mixed_5b.branch1x1.bn.num_batches_tracked': np.array(3)}
  safetensors.numpy.save_file(torch_tensors | steps, path)
  ours = inception.read_params(path)
  jax.tree.map(
    np.testing.assert_array_equal, ours, inception.read_params(graph)
  )
  kernel = torch_tensors['Mixed_6d.branch7x7_2.conv.weight']  # [out, in, 1, 7]
  np.testing.assert_array_equal(
    ours['Mixed_6d.branch7x7_2']['kernel'][0, 4], kernel[:, :, 0, 4].T
  )
  norm = ours['Mixed_7c.branch3x3dbl_3b']
  for name, other in zip(('scale', 'bias', 'mean', 'var'), NORM, strict=True):
    np.testing.assert_array_equal(
      norm[name], torch_tensors[f'Mixed_7c.branch3x3dbl_3b.bn.{other}']
    )
  np.testing.assert_array_equal(
    ours['fc']['kernel'], torch_tensors['fc.weight'].T
  )


def test_a_graph_is_written_back_in_pytorchs_layout(torch_tensors, graph):
  _, tensors = inception.read_both(graph)
  assert set(tensors) == set(torch_tensors)
  for name, array in tensors.items():
    np.testing.assert_array_equal(array, torch_tensors[name])


@pytest.mark.parametrize('missing', [True, False])
def test_other_weights_are_refused_in_one_line(
  torch_tensors, tmp_path, missing
):
  tensors = dict(torch_tensors)
  del tensors['Mixed_5b.branch1x1.bn.running_var']
  if not missing:
    tensors['AuxLogits.conv.weight'] = np.zeros(3, np.float32)
  path = tmp_path / 'other.safetensors'
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match='pytorch-fid') as error:
    inception.read_params(path)
  message = str(error.value)
  assert message.startswith(f'{path} cannot be read as the Inception network')
  assert 'missing: Mixed_5b.branch1x1.bn.running_var' in message
  assert ('not used: AuxLogits' in message) != missing
  assert '\n' not in message

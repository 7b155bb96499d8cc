"""Weights of Inception from TensorFlow's graph and from PyTorch's layout."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from diffusion_jax.interop import inception
from diffusion_jax.interop.inception import is_graph, read_constants
from tests.interop import graph_files
from tests.refusals import one_line

# Literal names of both projects: TensorFlow's towers, whose units are conv,
# conv_1, ..., and PyTorch's branches.
A = {
  '': '1x1',
  'tower/': '5x5_1 5x5_2',
  'tower_2/': '_pool',
  'tower_1/': '3x3dbl_1 3x3dbl_2 3x3dbl_3',
}
B = {'': '3x3', 'tower/': '3x3dbl_1 3x3dbl_2 3x3dbl_3'}
C = {
  '': '1x1',
  'tower/': '7x7_1 7x7_2 7x7_3',
  'tower_2/': '_pool',
  'tower_1/': '7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5',
}
D = {'tower/': '3x3_1 3x3_2', 'tower_1/': '7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4'}
E = {
  '': '1x1',
  'tower/': '3x3_1',
  'tower/mixed/': '3x3_2a 3x3_2b',
  'tower_1/': '3x3dbl_1 3x3dbl_2',
  'tower_2/': '_pool',
  'tower_1/mixed/': '3x3dbl_3a 3x3dbl_3b',
}
STEM = '1a_3x3 2a_3x3 2b_3x3 3b_1x1 4a_3x3'.split()
BLOCKS = '5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c'.split()
KINDS = A, A, A, B, C, C, C, C, D, E, E


def numbered(name, number):
  return f'{name}_{number}' if number else name


UNITS = {f'Conv2d_{name}': numbered('conv', i) for i, name in enumerate(STEM)}
UNITS |= {
  f'Mixed_{block}.branch{branch}': (f'{numbered("mixed", i)}/{tower}{numbered("conv", unit)}')
  for i, (block, towers) in enumerate(zip(BLOCKS, KINDS, strict=True))
  for tower, branches in towers.items()
  for unit, branch in enumerate(branches.split())
}
NORM = {
  'weight': 'gamma',
  'bias': 'beta',
  'running_mean': 'moving_mean',
  'running_var': 'moving_variance',
}
same = assert_array_equal


@pytest.fixture(scope='module')
def tensors():
  """Returns random weights in PyTorch's layout; the layers are narrow."""

  def cut(x):
    return np.empty((*x.shape[:-2], *np.minimum(x.shape[-2:], (4, 5)[-x.ndim :])))

  narrow = jax.tree.map(cut, inception._shapes())
  random = np.random.default_rng(0).standard_normal
  found = {'fc.weight': random((5, 4), np.float32)}
  found['fc.bias'] = random(5, np.float32)
  for unit in narrow.keys() - {'fc'}:
    height, width, channels, features = narrow[unit]['kernel'].shape
    found[f'{unit}.conv.weight'] = random((features, channels, height, width), np.float32)
    for name in NORM:
      found[f'{unit}.bn.{name}'] = random(5, np.float32)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(inception, '_shapes', lambda: narrow)
    yield found


def test_a_graph_has_the_weights_of_the_other_layout(tensors, tmp_path):
  """A TensorFlow graph has the weights of PyTorch's layout, in which it is also written."""
  path = tmp_path / 'weights.safetensors'
  steps = {'Mixed_5b.branch1x1.bn.num_batches_tracked': np.array(3)}
  safetensors.numpy.save_file(tensors | steps, path)
  _, ours, _ = inception.read(path)
  kernel = tensors['Mixed_6d.branch7x7_2.conv.weight']  # [out, in, 1, 7]
  same(ours['Mixed_6d.branch7x7_2']['kernel'][0, 4], kernel[:, :, 0, 4].T)
  norm, name = ours['Mixed_7c.branch3x3dbl_3b'], 'Mixed_7c.branch3x3dbl_3b.bn'
  for leaf, other in zip(('scale', 'bias', 'mean', 'var'), NORM, strict=True):
    same(norm[leaf], tensors[f'{name}.{other}'])
  same(ours['fc']['kernel'], tensors['fc.weight'].T)

  constants = {
    'softmax/weights': tensors['fc.weight'].T.copy(),
    'softmax/biases': tensors['fc.bias'],
    'mixed/join/concat_dim': np.array(3, np.int32),
  }
  for torch, scope in UNITS.items():
    kernel = tensors[f'{torch}.conv.weight'].transpose(2, 3, 1, 0)
    constants[f'{scope}/conv2d_params'] = np.ascontiguousarray(kernel)
    for name, other in NORM.items():
      constants[f'{scope}/batchnorm/{other}'] = tensors[f'{torch}.bn.{name}']
  path = tmp_path / 'classify_image_graph_def.pb'
  path.write_bytes(graph_files.graph(constants))
  _, params, back = inception.read(path)
  jax.tree.map(same, params, ours)
  jax.tree.map(same, dict(back), tensors)


def test_other_weights_are_refused_in_one_line(tensors, tmp_path):
  name, more = 'Mixed_5b.branch1x1.bn.running_var', 'AuxLogits.conv.weight'
  path = tmp_path / 'other.safetensors'
  rest = {n: x for n, x in tensors.items() if n != name}
  for extra in ({}, {more: np.zeros(3, np.float32)}):
    safetensors.numpy.save_file(rest | extra, path)
    unused = ['not used: AuxLogits'] * bool(extra)
    parts = f'{path} cannot be read as the Inception network', f'missing: {name}', 'pytorch-fid'
    with one_line(*parts, *unused):
      inception.read(path)


ARRAYS = {
  'conv/conv2d_params': np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
  'softmax/biases': np.float32([-1.5, 1e-30, np.inf]),
}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'graph.pb'
  path.write_bytes(graph_files.graph(ARRAYS))
  return path


@pytest.mark.parametrize(
  'values, expected', [([2.5], [[2.5] * 3] * 2), ([1.0, 4.0], [[1, 4, 4], [4, 4, 4]]), ([], 0.0)]
)
def test_a_short_list_ends_in_its_last_number(tmp_path, values, expected):
  file = graph_files.of_constant('gamma', (2, 3), float_val=values)
  (tmp_path / 'a').write_bytes(file)
  found = read_constants(tmp_path / 'a')['gamma']
  assert_array_equal(found, np.broadcast_to(expected, (2, 3)))


def test_a_cut_file_is_refused_in_one_line(path):
  path.write_bytes(path.read_bytes()[:-30])
  with one_line('graph.pb cannot be read as a TensorFlow graph'):
    read_constants(path)


def test_a_tensor_of_another_size_than_its_shape_is_refused(tmp_path):
  (tmp_path / 'a').write_bytes(graph_files.of_constant('beta', (5,), tensor_content=bytes(8)))
  with pytest.raises(ValueError, match='cannot reshape'):
    read_constants(tmp_path / 'a')


def test_a_graph_is_recognised_by_its_first_bytes(path, tmp_path):
  assert is_graph(path)
  header = b'\n\n\0\0\0\0\0\0{}        '  # of safetensors
  for start in (b'PK\x03\x04', b'\x80\x02}', header, b''):
    other = tmp_path / 'other.pb'
    other.write_bytes(start)
    assert not is_graph(other)

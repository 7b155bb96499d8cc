"""Weights of the Inception network of FID, from published files.

The same weights are published in two layouts: TensorFlow's graph
(classify_image_graph_def.pb) and PyTorch's (pytorch-fid, torch-fidelity).
"""

import functools
import re
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.interop.files import read_tensors, reading
from diffusion_jax.interop.graphdef import is_graph, read_constants
from diffusion_jax.interop.names import (
  CONV,
  LINEAR,
  SAME,
  Entry,
  Params,
  Tensors,
  read,
  write,
)
from diffusion_jax.networks.inception import SIDE, Inception

FILES = (
  'classify_image_graph_def.pb',
  'pt_inception-2015-12-05-6726825d.pth',
  'weights-inception-2015-12-05-6726825d.pth',
  'inception-2015-12-05.safetensors',
)
WHERE = (
  'classify_image_graph_def.pb (inception-2015-12-05.tgz of TensorFlow), '
  'pt_inception-2015-12-05-6726825d.pth (pytorch-fid) or '
  'weights-inception-2015-12-05-6726825d.pth (torch-fidelity)'
)

_STEM = {
  'Conv2d_1a_3x3': 'conv',
  'Conv2d_2a_3x3': 'conv_1',
  'Conv2d_2b_3x3': 'conv_2',
  'Conv2d_3b_1x1': 'conv_3',
  'Conv2d_4a_3x3': 'conv_4',
}
# The blocks of TensorFlow's graph are mixed, mixed_1, ..., mixed_10.
_BLOCKS = ('5b', '5c', '5d', '6a', '6b', '6c', '6d', '6e', '7a', '7b', '7c')
_BRANCH = re.compile(r'Mixed_(\w+)\.branch_?(\d[^_]*|pool)_?(\d?)([ab]?)')
_TOWERS = {
  '1x1': '',
  '5x5': 'tower/',
  '7x7': 'tower/',
  '3x3': 'tower/',
  '3x3dbl': 'tower_1/',
  '7x7dbl': 'tower_1/',
  '7x7x3': 'tower_1/',
  'pool': 'tower_2/',
}
# The block from 35x35 to 17x17 has a branch with one convolution, and its pool
# has no weights.
_TOWERS_6A = {'3x3': '', '3x3dbl': 'tower/'}
_NORM_TORCH = {
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_NORM_TENSORFLOW = {
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


def torch_entries() -> list[Entry]:
  """Returns the table of names of pytorch-fid and torch-fidelity."""
  return [
    Entry('fc/kernel', 'fc.weight', LINEAR),
    *(
      Entry(f'{unit}/kernel', f'{unit}.conv.weight', CONV) for unit in _units()
    ),
    *(
      Entry(f'{unit}/{ours}', f'{unit}.bn.{theirs}', SAME)
      for unit in _units()
      for ours, theirs in _NORM_TORCH.items()
    ),
  ]


def tensorflow_entries() -> list[Entry]:
  """Returns the table of names of TensorFlow's graph."""
  parts = {'kernel': 'conv2d_params'} | {
    ours: f'batchnorm/{theirs}' for ours, theirs in _NORM_TENSORFLOW.items()
  }
  return [
    Entry('fc/kernel', 'softmax/weights', SAME),
    *(
      Entry(f'{unit}/{ours}', f'{_scope(unit)}/{theirs}', SAME)
      for unit in _units()
      for ours, theirs in parts.items()
    ),
  ]


def read_params(path: str | Path) -> Params:
  """Returns the parameters of `Inception` from a file, under any name.

  The file may be a GraphDef, .pth, which needs torch, or safetensors with the
  names of pytorch-fid and torch-fidelity. Raises ValueError in one line for
  another file.
  """
  return read_both(path)[0]


def read_both(path: str | Path) -> tuple[Params, Tensors]:
  """Returns the parameters, and all weights by their names in PyTorch."""
  with reading(path, f'the Inception network of 2015-12-05, {WHERE}'):
    graph = is_graph(path)
    tensors = read_constants(path) if graph else read_tensors(path)
    entries = tensorflow_entries() if graph else torch_entries()
    params = read(entries, tensors, _shapes(), _ignored)
  if graph:
    bias = {'fc.bias': tensors['softmax/biases']}
    tensors = write(torch_entries(), params) | bias
  return params, tensors


def _ignored(name):
  # The logits have no bias, num_batches_tracked counts training steps, and the
  # other constants of the graph, scalars or shapes, are part of `Inception` and
  # of `preprocess`.
  parameter = 'softmax/weights', 'conv2d_params', 'batchnorm/'
  torch = '.weight', '.bias', '.running_mean', '.running_var'
  used = name.endswith(torch) or any(p in name for p in parameter)
  return not used or name in ('softmax/biases', 'fc.bias')


@functools.cache
def _shapes():
  images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
  init = jax.eval_shape(Inception().init, jax.random.key(0), images)
  return init['params']


def _units():
  return [name for name in _shapes() if name != 'fc']


def _scope(unit):
  # 'Mixed_5b.branch3x3dbl_2' -> 'mixed/tower_1/conv_1'
  if unit in _STEM:
    return _STEM[unit]
  match = _BRANCH.fullmatch(unit)
  assert match
  block, kind, step, part = match.groups()
  scope = (_TOWERS_6A if block == '6a' else _TOWERS)[kind]
  number = int(step or 1) - 1
  if part:  # two parallel convolutions
    scope, number = f'{scope}mixed/', 'ab'.index(part)
  index = _BLOCKS.index(block)
  mixed, conv = (f'{name}_{i}' if i else name for name, i in (
    ('mixed', index), ('conv', number)
  ))  # fmt: skip
  return f'{mixed}/{scope}{conv}'

"""Weights of the Inception network of FID, from published files.

The same weights are published in two layouts: TensorFlow's graph
(classify_image_graph_def.pb) and PyTorch's (pytorch-fid, torch-fidelity).
"""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.interop import names
from diffusion_jax.interop.weight_files import read_tensors, reading
from diffusion_jax.networks.inception import SIDE, Inception, preprocess

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
TITLE = 'Inception 2015-12-05'
HOW = "TensorFlow 1's bilinear resize to 299, (x - 128) / 128"
PREPROCESS = preprocess

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
# The arrays of a unit: in PyTorch, with the rule, and in TensorFlow.
_ARRAYS = {
  'kernel': ('conv.weight', names.KERNEL, 'conv2d_params'),
  'scale': ('bn.weight', names.SAME, 'batchnorm/gamma'),
  'bias': ('bn.bias', names.SAME, 'batchnorm/beta'),
  'mean': ('bn.running_mean', names.SAME, 'batchnorm/moving_mean'),
  'var': ('bn.running_var', names.SAME, 'batchnorm/moving_variance'),
}


def entries(graph: bool) -> list[names.Entry]:
  """Returns the table of names of TensorFlow's graph, or of pytorch-fid and torch-fidelity."""
  name, rule = ('softmax/weights', names.SAME) if graph else ('fc.weight', names.KERNEL)
  table = [names.Entry('fc/kernel', name, rule)]
  for unit in _units():
    for ours, (torch, torch_rule, tensorflow) in _ARRAYS.items():
      name = f'{_scope(unit)}/{tensorflow}' if graph else f'{unit}.{torch}'
      rule = names.SAME if graph else torch_rule
      table.append(names.Entry(f'{unit}/{ours}', name, rule))
  return table


def read(path: str | Path) -> tuple[Inception, names.Params, names.Tensors]:
  """Returns (network, parameters, all weights by their names in PyTorch).

  The file, of any name, may be a GraphDef, .pth, which needs torch, or
  safetensors with the names of pytorch-fid and torch-fidelity. Raises
  ValueError in one line for another file.
  """
  with reading(path, f'the Inception network of 2015-12-05, {WHERE}'):
    graph = is_graph(path)
    tensors = read_constants(path) if graph else read_tensors(path)
    params = names.read(entries(graph), tensors, _shapes(), _ignored)
  if graph:
    bias = {'fc.bias': tensors['softmax/biases']}
    tensors = names.write(entries(False), params) | bias
  return Inception(), params, tensors


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
  return jax.eval_shape(Inception().init, jax.random.key(0), images)['params']


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
  mixed, conv = (f'{name}_{i}' if i else name for name, i in (('mixed', index), ('conv', number)))
  return f'{mixed}/{scope}{conv}'


_FLOAT = 1  # DT_FLOAT of TensorFlow's types.proto


def is_graph(path: str | Path) -> bool:
  """Returns whether a file starts like a GraphDef, with the name of a node."""
  with Path(path).open('rb') as file:
    start = file.read(16)
  # Field 1 is a message, which soon has its own field 1, a string. safetensors
  # files may begin with the same bytes, but have '{' at byte 8.
  return start[:1] == b'\n' and b'\n' in start[2:6] and start[8:9] != b'{'


def read_constants(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the float32 constants of a GraphDef by the names of their nodes.

  The file is a protocol buffer, which contains data only. Raises ValueError for
  a file that is not a complete GraphDef.
  """
  from tensorboardX.proto import graph_pb2  # without TensorFlow

  messages: Any = graph_pb2  # protobuf makes its classes at run time
  with reading(path, 'a TensorFlow graph (GraphDef)'):
    graph = messages.GraphDef.FromString(Path(path).read_bytes())
    return {
      node.name: _to_array(node.attr['value'].tensor)
      for node in graph.node
      if node.op == 'Const' and node.attr['value'].tensor.dtype == _FLOAT
    }


def _to_array(tensor):
  shape = [dim.size for dim in tensor.tensor_shape.dim]
  if tensor.tensor_content:
    return np.frombuffer(tensor.tensor_content, '<f4').reshape(shape)
  # The last number of a short list stands for all that follow.
  values = np.array(tensor.float_val or [0.0], np.float32)
  rest = max(0, int(np.prod(shape)) - len(values))
  return np.pad(values, (0, rest), mode='edge').reshape(shape)

"""Reads the constants of a TensorFlow graph (GraphDef) without TensorFlow.

The file is a protocol buffer, which contains data only. Its messages are
declared here with the few fields that are read; protobuf skips the others.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_jax.interop.files import reading

_FLOAT = 1  # DT_FLOAT of tensorflow/core/framework/types.proto
# {name of a message: {field: (number, type, repeated)}}, as in TensorFlow's
# graph.proto, node_def.proto, attr_value.proto, tensor.proto and
# tensor_shape.proto. A map is a repeated message of key and value.
_MESSAGES = {
  'Dim': {'size': (1, 'INT64', False)},
  'Shape': {'dim': (2, 'Dim', True)},
  'Tensor': {
    'dtype': (1, 'INT32', False),
    'tensor_shape': (2, 'Shape', False),
    'tensor_content': (4, 'BYTES', False),
    'float_val': (5, 'FLOAT', True),
  },
  'Value': {'tensor': (8, 'Tensor', False)},
  'Attribute': {'key': (1, 'STRING', False), 'value': (2, 'Value', False)},
  'Node': {
    'name': (1, 'STRING', False),
    'op': (2, 'STRING', False),
    'attr': (5, 'Attribute', True),
  },
  'Graph': {'node': (1, 'Node', True)},
}


def is_graph(path: str | Path) -> bool:
  """Returns whether a file starts like a GraphDef, with the name of a node."""
  with Path(path).open('rb') as file:
    start = file.read(16)
  # Field 1 is a message, which soon has its own field 1, a string. safetensors
  # files may begin with the same bytes, but have '{' at byte 8.
  return start[:1] == b'\n' and b'\n' in start[2:6] and start[8:9] != b'{'


def read_constants(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the float32 constants of a GraphDef by the names of their nodes.

  Raises ValueError for a file that is not a complete GraphDef.
  """
  with reading(path, 'a TensorFlow graph (GraphDef)'):
    graph = _messages()['Graph']()
    graph.ParseFromString(Path(path).read_bytes())
    return {
      node.name: _to_array(attribute.value.tensor)
      for node in graph.node
      for attribute in node.attr
      if node.op == 'Const' and attribute.key == 'value'
      if attribute.value.tensor.dtype == _FLOAT
    }


def _to_array(tensor):
  shape = [dim.size for dim in tensor.tensor_shape.dim]
  if tensor.tensor_content:
    return np.frombuffer(tensor.tensor_content, '<f4').reshape(shape)
  # The last number of a short list stands for all that follow.
  values = np.array(tensor.float_val or [0.0], np.float32)
  rest = max(0, int(np.prod(shape)) - len(values))
  return np.pad(values, (0, rest), mode='edge').reshape(shape)


@functools.cache
def _messages() -> dict[str, Callable]:
  """Returns a class for each message, in a separate pool."""
  from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

  file = descriptor_pb2.FileDescriptorProto(
    name='graphdef.proto', package='graphdef', syntax='proto3'
  )
  kinds = descriptor_pb2.FieldDescriptorProto
  for name, fields in _MESSAGES.items():
    message = file.message_type.add(name=name)
    for field, (number, kind, repeated) in fields.items():
      added = message.field.add(name=field, number=number)
      added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
      if kind in _MESSAGES:
        added.type, added.type_name = kinds.TYPE_MESSAGE, f'.graphdef.{kind}'
      else:
        added.type = getattr(kinds, f'TYPE_{kind}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f'graphdef.{name}')
    )
    for name in _MESSAGES
  }

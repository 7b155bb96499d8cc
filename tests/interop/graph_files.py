"""GraphDef files by the classes of the protocol that tensorboardX has."""

from typing import Any

import numpy as np
from tensorboardX.proto import graph_pb2, types_pb2

messages: Any = graph_pb2
types: Any = types_pb2


def constant(graph, name, shape, kind=types.DT_FLOAT, **values):
  """Adds a Const node; values: tensor_content or float_val."""
  node = graph.node.add(name=name, op='Const')
  node.attr['dtype'].type = kind
  sizes = {'dim': [{'size': size} for size in shape]}
  tensor = type(node.attr['value'].tensor)(dtype=kind, tensor_shape=sizes, **values)
  node.attr['value'].tensor.CopyFrom(tensor)


def of_constant(name, shape, **values):
  """Returns a file of one constant."""
  graph = messages.GraphDef()
  constant(graph, name, shape, **values)
  return graph.SerializeToString()


def graph(constants):
  """Returns a file of constants and Inception's other nodes."""
  made = messages.GraphDef()
  constant(made, 'DecodeJpeg/contents', (), types.DT_STRING)
  made.node.add(name='DecodeJpeg', op='DecodeJpeg', input=['DecodeJpeg/contents'])
  resize = made.node.add(name='Sub', op='Sub', input=['ResizeBilinear', 'Sub/y'])
  resize.attr['strides'].list.i.extend([1, 2, 2, 1])
  # one number, in float_val and not in tensor_content
  constant(made, 'Sub/y', (), float_val=[128.0])
  for name, x in {'ResizeBilinear/size': np.array([299, 299], np.int32), **constants}.items():
    kind = types.DT_FLOAT if x.dtype == np.float32 else types.DT_INT32
    constant(made, name, x.shape, kind, tensor_content=x.tobytes())
  return made.SerializeToString()

"""GraphDef files in protobuf's wire format; numbers are TensorFlow's."""

import numpy as np

FLOAT, INT32, STRING = 1, 3, 7  # types.proto


def varint(number):
  out = b''
  while number > 127:
    out += bytes([number % 128 + 128])
    number //= 128
  return out + bytes([number])


def number(field, value):
  return varint(8 * field) + varint(value)


def data(field, content):
  return varint(8 * field + 2) + varint(len(content)) + content


def shape(sizes):
  return b''.join(data(2, number(1, size)) for size in sizes)


def tensor(array):
  kind = FLOAT if array.dtype == np.float32 else INT32
  return number(1, kind) + data(2, shape(array.shape)) + data(4, array.tobytes())


def constant(name, content, kind=FLOAT):
  """Returns a Const node; content: the message of its tensor."""
  attributes = data(5, data(1, b'dtype') + data(2, number(6, kind)))
  attributes += data(5, data(1, b'value') + data(2, data(8, content)))
  return data(1, data(1, name.encode()) + data(2, b'Const') + attributes)


def operation(name, kind, *inputs):
  """Returns another node, with inputs, and an attribute that lists strides."""
  body = data(1, name.encode()) + data(2, kind.encode())
  body += b''.join(data(3, other.encode()) for other in inputs)
  strides = data(1, b'strides') + data(2, data(1, data(3, b'\x01\x02\x02\x01')))
  return data(1, body + data(5, strides))


def graph(constants):
  """Returns a graph of float constants and Inception's other nodes."""
  nodes = [
    constant('DecodeJpeg/contents', number(1, STRING) + data(2, b'') + data(8, b''), STRING),
    operation('DecodeJpeg', 'DecodeJpeg', 'DecodeJpeg/contents'),
    constant('ResizeBilinear/size', tensor(np.array([299, 299], np.int32)), INT32),
    operation('Sub', 'Sub', 'ResizeBilinear', 'Sub/y'),
    # one number, in float_val and not in tensor_content
    constant('Sub/y', number(1, FLOAT) + data(2, b'') + data(5, b'\0\0\0C')),
    *(constant(name, tensor(array)) for name, array in constants.items()),
  ]
  return b''.join(nodes) + data(4, number(1, 8))

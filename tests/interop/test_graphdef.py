"""Constants of a GraphDef that is written here in its wire format."""

import numpy as np
import pytest

from diffusion_jax.interop.inception import is_graph, read_constants
from tests.interop import graph_files as wire

ARRAYS = {
  'conv/conv2d_params': np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
  'softmax/biases': np.float32([-1.5, 1e-30, np.inf]),
}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'graph.pb'
  path.write_bytes(wire.graph(ARRAYS))
  return path


def test_float_constants_are_read_bit_for_bit(path):
  found = read_constants(path)
  assert set(found) == {*ARRAYS, 'Sub/y'}
  assert found.pop('Sub/y') == 128.0
  for name, array in found.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize(
  'values, expected',
  [([2.5], [[2.5] * 3] * 2), ([1.0, 4.0], [[1, 4, 4], [4, 4, 4]]), ([], 0.0)],
)
def test_a_short_list_ends_in_its_last_number(tmp_path, values, expected):
  content = np.float32(values).tobytes()
  message = wire.number(1, wire.FLOAT) + wire.data(2, wire.shape((2, 3)))
  message += wire.data(5, content) if values else b''
  (tmp_path / 'a').write_bytes(wire.constant('gamma', message))
  found = read_constants(tmp_path / 'a')['gamma']
  np.testing.assert_array_equal(found, np.broadcast_to(expected, (2, 3)))


def test_a_cut_file_is_refused_in_one_line(path):
  path.write_bytes(path.read_bytes()[:-30])
  message = 'graph.pb cannot be read as a TensorFlow graph'
  with pytest.raises(ValueError, match=message) as error:
    read_constants(path)
  assert '\n' not in str(error.value)


def test_a_tensor_of_another_size_than_its_shape_is_refused(tmp_path):
  message = wire.number(1, wire.FLOAT) + wire.data(2, wire.shape((5,)))
  message += wire.data(4, bytes(8))
  (tmp_path / 'a').write_bytes(wire.constant('beta', message))
  with pytest.raises(ValueError, match='cannot reshape'):
    read_constants(tmp_path / 'a')


def test_a_graph_is_recognised_by_its_first_bytes(path, tmp_path):
  assert is_graph(path)
  header = b'\n\n\0\0\0\0\0\0{}        '  # of safetensors
  for start in (b'PK\x03\x04', b'\x80\x02}', header, b''):
    other = tmp_path / 'other.pb'
    other.write_bytes(start)
    assert not is_graph(other)

"""Files of weights are read, and code in them is never run."""

import json
import os
import pickle
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from numpy.testing import assert_array_equal

from diffusion_jax.interop import weight_files
from tests.damage import full_disk
from tests.refusals import one_line

ARRAYS = {
  'a': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b.c': np.array([1.5, -2.0], np.float16),
  'd': np.array([1.0, 3.0], jnp.bfloat16),
  'e': np.array([2], np.int64),
}


def same(found, expected=ARRAYS):
  assert set(found) == set(expected)
  for name, array in expected.items():
    assert_array_equal(found[name], array)
    assert np.asarray(found[name]).dtype == np.asarray(array).dtype


def refused(path, message=None):
  with one_line(path.name, match=message):
    weight_files.read_tensors(path)


def test_safetensors(tmp_path):
  path = tmp_path / 'a.safetensors'
  weight_files.write_safetensors(path, ARRAYS, config='{}')
  assert weight_files.read_metadata(path) == {'config': '{}'}
  same(weight_files.read_tensors(path))
  lazy = weight_files.open_tensors(path, lambda name: f'x.{name}')
  assert len(lazy) == 4
  same({name.removeprefix('x.'): lazy[name] for name in lazy})
  path.rename(tmp_path / 'a.bin')  # recognised by its content
  same(weight_files.read_tensors(tmp_path / 'a.bin'))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
  """Later files get the usual mode."""
  with full_disk(1000), pytest.raises(OSError, match='a cannot be written: .*too large'):
    weight_files.write_safetensors(tmp_path / 'a', {'x': np.zeros(1000)})
  assert not list(tmp_path.iterdir())
  weight_files.write_safetensors(tmp_path / 'a', {'x': np.zeros(1000)})
  (tmp_path / 'b').touch()
  assert (tmp_path / 'a').stat().st_mode == (tmp_path / 'b').stat().st_mode


def test_safetensors_in_parts(tmp_path):
  path = tmp_path / 'all.safetensors.index.json'
  one, two = '1.safetensors', '2.safetensors'
  where = {'a': one, 'b.c': one, 'd': two, 'e': two}
  for part in (one, two):
    arrays = {name: ARRAYS[name] for name in where if where[name] == part}
    weight_files.write_safetensors(tmp_path / part, arrays)
  path.write_text(json.dumps({'weight_map': where}))
  same(weight_files.read_tensors(path))
  for content, message in (
    ({'weight_map': where | {'f': one}}, 'f is not in any part'),
    ({'weight_map': where | {'f': '../1'}}, "'../1', which is in another fold"),
    ({}, 'does not contain weight_map'),
  ):
    path.write_text(json.dumps(content))
    refused(path, message)


def test_npz_and_msgpack(tmp_path):
  path = tmp_path / 'a.npz'
  # npz does not have bfloat16
  arrays = {n: x for n, x in ARRAYS.items() if n != 'd'}
  np.savez(path, **arrays)
  same(weight_files.read_tensors(path), arrays)
  path = tmp_path / 'checkpoint_26'
  tree = {'params': {'a': ARRAYS['a']}, 'ema': [ARRAYS['d'], 'text', None, 3]}
  path.write_bytes(serialization.msgpack_serialize(tree))
  same(weight_files.read_tensors(path), {'params/a': ARRAYS['a'], 'ema/0': ARRAYS['d'], 'ema/3': 3})


def header(text, data=b''):
  return len(text).to_bytes(8, 'little') + text.encode() + data


TENSOR = '{"a":{"dtype":"%s","shape":[%s],"data_offsets":[0,%d]}}'


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_a_header_of_any_length_is_safetensors(tmp_path, suffix):
  """The low byte of a header's length may be 0x80, like a pickle, or 10, like a GraphDef."""
  path = tmp_path / f'a.{suffix}'
  text, lengths = TENSOR % ('F32', '2', 8), range(17_024, 17_024 + 256, 8)
  assert {n % 256 for n in lengths} == set(range(0, 256, 8))
  for length in lengths:
    path.write_bytes(header(text.ljust(length), b'\0\0\x80?\0\0\0\xc0'))
    assert_array_equal(weight_files.read_tensors(path)['a'], [1.0, -2.0])


OTHER = ' cannot be read as | is a pickle that torch.save did not write'


@pytest.mark.parametrize('suffix', ['pb', 'msgpack', 'safetensors', 'pth'])
def test_garbage_is_no_file_of_pytorch(tmp_path, suffix, monkeypatch):
  """The first byte may be any, and torch may be missing."""
  monkeypatch.setitem(sys.modules, 'torch', None)
  path = tmp_path / f'a.{suffix}'
  rest = np.random.default_rng(0).bytes(300)
  for first in (b'\x80', b'\x80\x02', b'\x80\x04', b'PK\x03\x04', b'\n', b'\xff'):
    for more in (rest, bytes(300)):
      path.write_bytes(first + more)
      refused(path, OTHER)


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'\x01',
    header('{"a":', b''),
    header(TENSOR % ('F32', '2', 8), b'1234'),
    header(TENSOR % ('F32', '3', 8), b'12345678'),
    header(TENSOR % ('Q32', '2', 8), b'12345678'),
    header(TENSOR % ('F8_E4M3', '8', 8), b'12345678'),
    b'\xff' * 8 + b'{' + b'x' * 20,
  ],
)
def test_a_wrong_safetensors_file_is_one_line(tmp_path, content):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(content)
  refused(path)
  with pytest.raises(ValueError, match='a.safetensors'):
    weight_files.open_tensors(path)['a']


def test_a_cut_file_is_one_line(tmp_path):
  """The file is cut at several lengths."""
  safetensors.numpy.save_file(ARRAYS, tmp_path / 'a.safetensors')
  np.savez(tmp_path / 'a.npz', a=ARRAYS['a'])
  (tmp_path / 'a.msgpack').write_bytes(serialization.msgpack_serialize({'a': ARRAYS['a']}))
  for name in ('a.safetensors', 'a.npz', 'a.msgpack'):
    path = tmp_path / name
    whole = path.read_bytes()
    for size in (0, 4, 9, len(whole) // 2, len(whole) - 1):
      path.write_bytes(whole[:size])
      refused(path)
    path.write_bytes(whole)
    assert weight_files.read_tensors(path)


def test_other_files_are_one_line(tmp_path):
  refused(tmp_path / 'none', 'cannot be read as weights: No such file')
  refused(tmp_path, 'cannot be read as weights: Is a directory')
  path = tmp_path / 'notes.txt'
  path.write_text('what this is about')
  refused(path, r'read as weights \(safetensors, npz, PyTorch or msgpack')


class Evil:
  """A pickle that creates a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


@pytest.fixture
def pickles(tmp_path):
  """Returns the file that each pickle would create, and their paths."""
  created = tmp_path / 'created'
  evil = pickle.dumps({'a': Evil(created)}, protocol=2)
  plain, packed = tmp_path / 'plain.pkl', tmp_path / 'torch.pth'
  plain.write_bytes(evil)
  with zipfile.ZipFile(packed, 'w') as archive:
    archive.writestr('archive/data.pkl', evil)
    archive.writestr('archive/version', '3')
  arrays = tmp_path / 'arrays.npz'
  np.savez(arrays, a=np.array([Evil(created)], object))
  return created, (plain, packed, arrays)


def test_a_pickle_is_refused_and_nothing_created(pickles):
  created, paths = pickles
  for path in paths:
    refused(path)
    assert not created.exists()
  pickle.loads(paths[0].read_bytes())  # it is indeed a dangerous pickle
  assert created.exists()


def test_without_torch_its_files_are_one_line(pickles, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  created, (plain, packed, _) = pickles
  refused(plain, 'is a pickle that torch.save did not write')
  magic = 0x1950A86A20F9469CFC6C  # of torch.save before version 1.6
  for protocol in (2, 4):
    plain.write_bytes(pickle.dumps(magic, protocol) + plain.read_bytes())
    refused(plain, 'is a PyTorch file, which needs torch: run pip')
  refused(packed, 'is a PyTorch file, which needs torch: run pip')
  assert not created.exists()

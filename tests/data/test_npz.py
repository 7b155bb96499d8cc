"""Arrays of npz and npy files are sets, with contexts, labels and splits by their names."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data.npz import labels_in, npz, read
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.data.splits import random_part
from tests.refusals import one_line

ARRAYS = {
  'images': np.arange(10 * 4 * 5 * 3, dtype=np.uint8).reshape(10, 4, 5, 3),
  'labels': np.arange(10) % 3,
}
X = np.arange(12.0).reshape(6, 2)


def save(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_numbers_with_channels_first_get_a_line(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr('diffusion_jax.data.set_files._SAID', set())
  npz(save(tmp_path / 'a.npz', x=np.zeros((2, 4, 8, 5))))
  assert 'as 4 rows and 5 channels: if its' in capsys.readouterr().out
  npz(save(tmp_path / 'a.npz', x=np.zeros((2, 8, 8, 4))))
  assert not capsys.readouterr().out


@pytest.mark.parametrize('dtype', [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize('shape', [(3,), (4, 2), (2, 3, 1), (2, 2, 2, 1)])
def test_arrays_of_any_rank(tmp_path, shape, dtype):
  """Levels and real numbers come back as they are; floats keep their bits."""
  rng = np.random.default_rng(0)
  x = rng.uniform(0, 200, (10, *shape)).astype(dtype)
  context, labels = rng.normal(size=(10, 5)), np.arange(10) % 3
  name = 'arr_0' if dtype == np.uint8 else 'x'  # as sampling writes them, or as users do
  path = save(tmp_path / 'a.npz', context=context, labels=labels, **{name: x})
  source = npz(path, num_classes=3)
  if dtype == np.uint8 and shape == (4, 2):  # grey pictures
    x, shape = x[..., None], (4, 2, 1)
  levels = 256 if dtype == np.uint8 else 0
  assert source.facts == Facts(ArraySpec(shape, levels), 3, ArraySpec((5,)))
  assert source.label.dtype == np.int32 and npz(path).label is None  # no classes were requested
  whole = {'x': x, 'context': context, 'label': labels}
  for split in ('train', 'test'):
    rows = random_part(10, split, 0.3, '')
    arrays = npz(path, split, 3, test_fraction=0.3).read(np.arange(len(rows)))
    assert arrays.keys() == whole.keys() and arrays['x'].dtype == dtype
    for name, array in whole.items():
      assert_array_equal(arrays[name], array[rows])


def test_the_own_test_split_has_a_context_and_labels(tmp_path):
  path = save(
    tmp_path / 'a.npz',
    x=X,
    context=2 * X,
    labels=np.arange(6) % 3,
    test_x=X[:2] + 50,
    test_context=X[:2],
    test_labels=[2, 1],
  )
  assert_array_equal(npz(path).context, 2 * X)
  test = npz(path, 'test', 3)
  assert test.label.tolist() == [2, 1]
  assert_array_equal(test.x, X[:2] + 50)
  assert_array_equal(test.context, X[:2])


def test_a_row_of_indices_is_the_test_split(tmp_path):
  """Arrays may have names of their own, and x one number of each example."""
  table = {'target': X[:, 1], 'features': 2 * X, 'test_indices': [[0, 2], [5, 1], [3, 4]]}
  path = save(tmp_path / 'a.npz', **table)
  for row, test in enumerate(table['test_indices']):
    for split, rows in (('test', sorted(test)), ('train', [*{*range(6)} - {*test}])):
      source = npz(path, split, x='target', context='features', split_row=row)
      assert_array_equal(source.x, X[rows, 1:])
      assert_array_equal(source.context, 2 * X[rows])
  assert npz(path, x='features').context is None
  both = save(tmp_path / 'b.npz', **table, test_target=X[:2, 0], test_features=X[:2])
  source = npz(both, 'test', x='target', context='features')  # a split of its own goes first
  assert_array_equal(source.x, X[:2, :1])


def test_a_folder_of_npy_files_stays_on_disk(tmp_path):
  for name, array in (ARRAYS | {'test_images': ARRAYS['images'][:2]}).items():
    np.save(tmp_path / f'{name}.npy', array)
  source = npz(tmp_path, num_classes=3)
  assert isinstance(source.x, np.memmap) and not source.in_memory
  images, labels = source.read(np.array([3, 1])).values()
  assert_array_equal(images, ARRAYS['images'][[3, 1]])
  assert labels.tolist() == [0, 1]
  assert len(npz(tmp_path, 'test')) == 2
  (tmp_path / 'test_images.npy').unlink()
  assert isinstance(npz(tmp_path).x, np.memmap)
  assert len(npz(tmp_path, 'test', test_fraction=0.3)) == 3


@pytest.mark.parametrize('name', ['label', 'labels'])
def test_labels_of_a_file_are_read_without_its_pictures(tmp_path, name):
  path = save(tmp_path / 'a.npz', mu=np.zeros(3), **{name: np.array([2, 0, 1])})
  found = labels_in(path, 3)
  assert found.tolist() == [2, 0, 1] and found.dtype == np.int32
  assert labels_in(save(tmp_path / 'b.npz', mu=np.zeros(3)), 3) is None
  with one_line(str(path), 'labels must be int [3] in 0..1, got int64 [3], 0..2'):
    labels_in(path, 2)


def packed(path, shape, version=1, claim=None, name='a.npy', size=4 * 10**7):
  """Writes a file of 200 kB whose array has `size` bytes of zeros."""
  header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
  length = struct.pack('<H' if version == 1 else '<I', claim or len(header))
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open(name, 'w') as file:
      file.write(b'\x93NUMPY' + bytes([version, 0]) + length + header)
      for _ in range(size // 10**7):
        file.write(bytes(10**7))
  return path


@pytest.mark.parametrize(
  'written, message',
  [
    ({'shape': (10**7,)}, 'a.npy claims 40,000,000 bytes, and at most 1,000 are read'),
    ({'shape': (10**7,), 'version': 2}, 'claims 40,000,000 bytes'),
    ({'shape': (2,), 'version': 2, 'claim': 3 * 10**7}, 'a header claims 30,000,000 bytes'),
    ({'shape': (2,), 'version': 3, 'claim': 3 * 10**7}, 'a header claims 30,000,000 bytes'),
    ({'shape': (2,), 'name': 'a'}, 'no item named'),
  ],
)
def test_a_limit_is_of_what_an_array_claims(written, message, tmp_path):
  """A packed file may be a thousand times smaller; nothing of it comes into memory."""
  path = packed(tmp_path / 'a.npz', **written)
  assert path.stat().st_size < 1e6
  tracemalloc.start()
  with pytest.raises(ValueError, match=message):
    read(path, ['a'], 1000)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 5e6
  assert_array_equal(read(packed(path, (2,), size=10**7), ['a'], 8)['a'], np.zeros(2))


TOKENS = np.array([[0, 300, 7], [999, 1, 2], [3, 4, 5], [6, 7, 8]], np.uint16)


@pytest.mark.parametrize(
  'arrays, vocabulary, levels',
  [
    ({'x': TOKENS}, 0, 1000),
    ({'x': TOKENS[2:], 'test_x': TOKENS[:2]}, 0, 1000),  # both splits have one vocabulary
    ({'x': TOKENS}, 50_257, 50_257),
    ({'x': TOKENS[2:].astype(np.uint8)}, 9, 9),
  ],
)
def test_tokens_have_a_vocabulary(tmp_path, arrays, vocabulary, levels):
  path = save(tmp_path / 'a.npz', **arrays)
  source = npz(path, vocabulary=vocabulary)
  assert source.facts.x == ArraySpec((3,), levels, tokens=True)
  assert_array_equal(source.read(slice(None))['x'], arrays['x'])
  x = source.facts.x
  assert_array_equal(x.decode(x.encode(arrays['x'])), arrays['x'])


@pytest.mark.parametrize(
  'x, vocabulary, message',
  [
    (TOKENS, 999, 'has the token 999.*set it to 1000 or more'),
    (TOKENS, 65_537, 'at most 65,536'),
    (TOKENS.astype(float), 1000, r'vocabulary=1000 is of tokens.*x is float64 \[4, 3\]'),
    (TOKENS[..., None], 0, r'x is uint16 \[4, 3, 1\]: uint8 arrays are levels'),
    (TOKENS.astype(np.int32), 0, r'x is int32 \[4, 3\].*uint16 \[n, L\] tokens'),
  ],
)
def test_what_no_tokens_are_is_refused(tmp_path, x, vocabulary, message):
  with pytest.raises(ValueError, match=message):
    npz(save(tmp_path / 'a.npz', x=x), vocabulary=vocabulary)

"""Sums of contents, which are kept while the files stay as they are."""

import os
import shutil
import time

import numpy as np
import pytest

from diffusion_jax.data import npz, sums
from diffusion_jax.data.sums import digest, kept, of_files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'diffusion_jax' / 'sums'


def test_a_digest_is_of_types_shapes_and_all_numbers(monkeypatch):
  x = np.arange(600.0).reshape(30, 20)
  arrays = [x, x[::-1], x.T, x.reshape(20, 30), x.astype(int), np.float32(x), x[:29], np.array(1.0)]
  first = [digest([a]) for a in arrays]
  assert len({*first, digest([x, x]), digest([x.tobytes()])}) == 10
  assert digest([np.asfortranarray(x)]) == first[0]
  assert len({digest(parts) for parts in ([b'ab', b'c'], [b'a', b'bc'], [b'abc'])}) == 3
  monkeypatch.setattr(sums, '_BYTES', 100)
  assert [digest([a]) for a in arrays] == first


@pytest.mark.parametrize('is_large', [False, True])
def test_a_sum_is_computed_once(is_large, tmp_path, cache, monkeypatch):
  """Times tell that the middle of a large file has changed, which no sample shows."""
  if is_large:
    for name, value in {'_READ': 0, '_READ_UNTIMED': 0, '_SAMPLES': 2, '_BLOCK': 1}.items():
      monkeypatch.setattr(sums, name, value)
  path, calls = tmp_path / 'a', []
  path.write_bytes(b'(1)')

  def total(what=''):
    return kept([path], lambda: calls.append(what) or digest([path.read_bytes()]), what)

  first = total()
  assert first == total() == digest([b'(1)']) and len(calls) == 1
  assert len({*cache.iterdir()}) == 1
  total('other rows')
  assert calls == ['', 'other rows']
  times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
  for count, data in enumerate((b'(2)', b'(3)', b'(4)', b'(5)')):  # as large and as old
    path.write_bytes(data)
    os.utime(path, ns=times)
    assert total() == digest([data]) and len(calls) == 3 + count
  for each in cache.iterdir():
    each.write_text('')  # damaged
  first = digest([b'(5)'])
  assert total() == first
  shutil.rmtree(cache)
  cache.write_bytes(b'')  # cannot be written
  assert total() == first == total() and len(calls) == 9


def test_a_file_that_is_written_back_has_its_sum(tmp_path, cache):
  """Small files are known by their bytes: a copy elsewhere is not read for another sum."""
  calls = []
  for name in 'ab':
    (tmp_path / name).write_bytes(b'1')
    kept([tmp_path / name], lambda: calls.append(1) or '0')
  assert len(calls) == 1


def test_a_file_that_has_just_changed_is_waited_for(tmp_path):
  """A change within the same tick of the clock of a file system would not be seen."""
  path = tmp_path / 'a'
  path.write_bytes(b'1')
  seconds = lambda: time.time() - path.stat().st_ctime
  assert float(kept([path], lambda: str(seconds()))) >= sums.TICK


def test_a_sum_of_files_is_of_their_bytes_in_order(tmp_path):
  paths = [tmp_path / name for name in 'abc']
  for path in paths:
    path.write_bytes(path.name.encode() * 9)
  first = of_files(paths)
  copy = shutil.copytree(tmp_path, tmp_path.with_name(f'{tmp_path.name}_copy'))
  assert of_files([copy / path.name for path in paths]) == first
  assert of_files(paths[::-1]) != first
  paths[1].write_bytes(b'bbbb.bbbb')
  assert of_files(paths) != first


def test_mapped_arrays_have_the_sum_of_those_in_memory(tmp_path, cache):
  x = np.random.default_rng(0).normal(size=(50, 3))
  np.savez(tmp_path / 'x.npz', x=x)
  (tmp_path / 'folder').mkdir()
  np.save(tmp_path / 'folder' / 'x.npy', x)
  mapped = npz.npz(tmp_path / 'folder')
  first = npz.npz(tmp_path / 'x.npz').checksum()
  assert not mapped.in_memory and mapped.checksum() == first and len([*cache.iterdir()]) == 1
  assert sums.of_array(mapped.x[:10]) == digest([x[:10]]) != sums.of_array(mapped.x)
  assert sums.of_array(mapped.x[10:20]) == digest([x[10:20]])
  x[1, 1] += 1.0
  np.save(tmp_path / 'folder' / 'x.npy', x)
  assert npz.npz(tmp_path / 'folder').checksum() != first

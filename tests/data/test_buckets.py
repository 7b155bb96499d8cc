"""Data in buckets, of real servers on this machine, against the same files."""
# ruff: noqa: F401  Rows call what is imported.

import functools
import os
import re
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow
import pytest
from numpy.testing import assert_equal
from pyarrow import parquet

from diffusion_jax.app.config import trust
from diffusion_jax.app.modes import MODES
from diffusion_jax.data import buckets
from diffusion_jax.data.huggingface import huggingface
from diffusion_jax.data.npz import npz
from diffusion_jax.data.tfds_sources import cifar10, tfds
from diffusion_jax.data.webdataset import webdataset
from diffusion_jax.runtime.run_folder import RunFolder
from tests import refusals
from tests.app.conftest import lines_of, refuse_to_compile, refused, smoke
from tests.bucket_server import Amazon, Google, running
from tests.data import archives, encoded
from tests.data.encoded import LABELS, PICTURES, SHAPE

PICTURE = {'image_shape': SHAPE, 'num_classes': 3}
SETS = {  # address below the bucket -> the source of a place
  'set.npz': functools.partial(npz, num_classes=3),
  'tars/train-*.tar': functools.partial(webdataset, image_column='png', **PICTURE),
  'tars': functools.partial(webdataset, image_column='png', **PICTURE),
  'tables': functools.partial(huggingface, **PICTURE),
  'tables/test-00000-of-00001.parquet': functools.partial(huggingface, **PICTURE),
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Writes the data that a bucket has, in all formats."""
  top = tmp_path_factory.mktemp('files')
  for folder in ('tars', 'tables', 'tfds'):
    (top / folder).mkdir()
  np.savez(top / 'set.npz', x=PICTURES, label=LABELS)
  for name, part in encoded.FILES.items():
    png, label = [encoded.png(PICTURES[i]) for i in part], LABELS[part].tolist()
    members = zip(part, png, label, strict=True)
    tar = [x for i, a, b in members for x in ((f'{i}.png', a), (f'{i}.cls', b'%d' % b))]
    encoded.tar(top / 'tars' / f'{name}.tar', tar)
    images = [{'bytes': x, 'path': None} for x in png]
    table = pyarrow.table({'image': images, 'label': label})
    parquet.write_table(table, top / 'tables' / f'{name}.parquet')
  archives.prepared_by_tfds(top / 'tfds', archives.cifar10(top / 'archive'))
  return top


@pytest.fixture(scope='module', params=[Google, Amazon])
def bucket(request, files, tmp_path_factory):
  """Returns (address, file system) of a bucket with the files."""
  with running(request.param, tmp_path_factory.mktemp('server')) as server:
    system = buckets.open_bucket(f'{server.scheme}://bucket')
    system.put(str(files), 'bucket/data', recursive=True)
    yield f'{server.scheme}://bucket/data', system


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'diffusion_jax' / 'data'


def arrays_of(source):
  return source.read(np.arange(len(source)))


@pytest.mark.parametrize('name', SETS)
def test_data_in_a_bucket_are_those_of_the_files(bucket, files, tmp_path, name, monkeypatch):
  datasets = pytest.importorskip('datasets')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'arrow')
  source = SETS[name](f'{bucket[0]}/{name}')
  expected = SETS[name](f'{files}/{name}')
  assert_equal(arrays_of(source), arrays_of(expected))
  assert source.facts == expected.facts


def test_a_set_of_tfds_in_a_bucket(bucket, files):
  read = functools.partial(tfds, 'test', image_shape=(32, 32, 3), num_classes=10)
  expected = arrays_of(read('cifar10', data_dir=str(files / 'tfds')))
  for name in ('cifar10', 'cifar10:3.0.2'):
    source = read(name, data_dir=f'{bucket[0]}/tfds')
    assert_equal(arrays_of(source), expected)


def test_an_object_is_copied_once_and_again_if_it_changes(bucket, capsys):
  address, system = bucket
  system.pipe({f'bucket/parts/{name}.tar': name.encode() for name in 'abc'})
  system.pipe('bucket/parts/note.txt', b'not a tar')
  pattern = f'{address.rpartition("/")[0]}/parts/*.tar'
  place = buckets.place(pattern).parent

  def contents():
    buckets.local(pattern)
    return {path.name: path.read_bytes() for path in sorted(place.glob('[!.]*'))}, [
      line.split()[1] for line in capsys.readouterr().out.splitlines()
    ]

  whole = {f'{name}.tar': name.encode() for name in 'abc'}
  assert contents() == (whole, ['3'])
  assert contents() == (whole, [])
  system.pipe('bucket/parts/a.tar', b'x')  # of the same size
  assert contents() == (whole | {'a.tar': b'x'}, ['1'])
  (place / 'b.tar').write_bytes(b'')  # cut short
  assert contents() == (whole | {'a.tar': b'x'}, ['1'])
  system.rm('bucket/parts/c.tar')
  assert contents() == ({'a.tar': b'x', 'b.tar': b'b'}, [])


def test_a_name_with_a_bracket_is_a_name_before_it_is_a_pattern(bucket, cache):
  system, scheme = bucket[1], bucket[0].partition('/data')[0]
  system.pipe({f'bucket/odd/{name}': name.encode() for name in ('a1', 'a[1]')})
  read = lambda name: Path(buckets.local(f'{scheme}/odd/{name}')).read_text()
  assert [read('a1'), read('a[1]'), read('a1')] == ['a1', 'a[1]', 'a1']
  buckets.local(f'{scheme}/odd/a[12]')
  with refusals.one_line('name of a bucket cannot be a pattern'):
    buckets.local(f'{scheme[:-1]}*/a')
  place = cache / scheme.replace('://', '/') / 'odd' / 'a1'
  place.unlink()
  (place / 'b').mkdir(parents=True)  # An object has the name of what was a folder.
  assert read('a1') == 'a1'
  system.rm_file('bucket/odd/a1')
  system.pipe('bucket/odd/a1/b', b'a1/b')  # and the other way round
  assert read('a1/b') == 'a1/b'


def test_a_copy_is_whole_or_not_there(bucket, cache, monkeypatch):
  address, system = bucket

  def stops(name, path):
    Path(path).write_bytes(b'half')

  monkeypatch.setattr(system, 'get_file', stops)
  with refusals.one_line('set.npz cannot be copied to ', '4 of the ', ' bytes of bucket/data/'):
    buckets.local(f'{address}/set.npz')
  assert not [path for path in cache.rglob('*') if path.is_file()]


@pytest.mark.parametrize('bucket', [Google], indirect=True)
def test_a_training_on_a_bucket(bucket, cache, tmp_path, monkeypatch):
  """The address need not be given again."""
  monkeypatch.setattr(trust, '_allowed', set())
  fields = {'data': 'npz', 'data.num_classes': 3, 'network.channels': 8, 'data.test_fraction': 0.2}
  there = {'data.path': f'{bucket[0]}/set.npz'}
  MODES['train'](smoke(**fields | there), str(tmp_path / 'run'))
  trust._allowed.clear()
  trust.recall(RunFolder.at(tmp_path / 'run'))
  assert trust.is_given(there['data.path'])
  other = {'training.num_steps': 6}
  refuse_to_compile(monkeypatch)  # The data are open then.
  with pytest.raises(AssertionError, match='is compiled'):
    MODES['train'](smoke(**fields | there | other), str(tmp_path / 'run'))
  assert cache.is_dir() and lines_of(tmp_path / 'run', 'loss')


def without_home(address):
  with mock.patch.dict(os.environ, clear=True), mock.patch('pwd.getpwuid', {}.__getitem__):
    buckets.place(address)


NO_HOME = [
  (lambda: without_home('gs://bucket/a.npz'), 'HOME and XDG_CACHE_HOME are not set'),
]
WRONG = [
  (
    lambda: npz('az://bucket/a.npz'),
    'az://bucket/a.npz: data are read from gs:// and s3://, not from az://',
  ),
  (
    lambda: npz('gs://bucket/../a.npz'),
    'a name with an empty part, . or .. cannot be copied to a folder',
  ),
  (
    lambda: npz('gs://bucket/a.npz'),
    "gs://bucket/a.npz needs the library gcsfs: pip install -e '.[gcs]'",
  ),
  (lambda: tfds('train', 'cifar10', data_dir='s3://b'), 's3://b/cifar10 needs the library s3fs'),
  (lambda: cifar10(data_dir='gs://b'), 'gs://b: cifar10 is prepared in a folder of this machine'),
]


@pytest.mark.parametrize(
  'error, call, message', [*refusals.rows(ValueError, WRONG), *refusals.rows(OSError, NO_HOME)]
)
def test_other_addresses_are_refused(error, call, message, monkeypatch):
  for library, _ in buckets.LIBRARIES.values():
    monkeypatch.setitem(sys.modules, library, None)
  with refusals.one_line(error=error, match=message):
    call()


def test_what_is_not_there_is_refused_before_anything_is_compiled(
  bucket, cache, tmp_path, monkeypatch
):
  refuse_to_compile(monkeypatch)
  top = bucket[0].rpartition('/')[0]
  for name in ('lost.npz', 'tars/lost-*.npz'):
    fields = {'data': 'npz', 'data.path': f'{top}/{name}'}
    message = f'config.data: .*{re.escape(name)}: the bucket has no object or folder'
    refused(message, MODES['train'], smoke(**fields), str(tmp_path / 'run'))
  with refusals.one_line('bucket has no object or folder', error=FileNotFoundError):
    npz(f'{top}-of-nobody/a.npz')
  assert not cache.exists()


def test_without_credentials(tmp_path):
  forget = pytest.importorskip('s3fs').S3FileSystem.clear_instance_cache
  forget()
  line = 's3://bucket/a.npz cannot be read with your credentials: Unable to locate credentials'
  environ = {'AWS_EC2_METADATA_DISABLED': 'true', 'HOME': str(tmp_path)}
  with mock.patch.dict(os.environ, environ, clear=True), refusals.one_line(line):
    npz('s3://bucket/a.npz')
  forget()

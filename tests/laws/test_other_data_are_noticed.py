"""Law: data of another content are another set, whatever their sizes and times are.

Each set that reads files is written with one content, and then with another in files of the same
names, sizes, times and inodes, as in a read-only image that is mounted in place of another. Sources
of the user's own, which have no checksum, are read. Planted faults: the rows of
tests/faults.txt with this file.
"""

import importlib.util
import io
import os
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.data import (
  huggingface,
  image_folder,
  mixed,
  npz,
  sums,
  tables,
  text_files,
  tfds_sources,
  webdataset,
)
from diffusion_jax.data.between import Between
from diffusion_jax.data.simulated import Simulated
from diffusion_jax.data.sources import Binarized, content_sum, facts_sum, pictures
from diffusion_jax.data.splits import Part
from diffusion_jax.demos import photos
from diffusion_jax.paths import READ, use_of
from tests.app.conftest import of_run, refused, smoke
from tests.app.fields import within
from tests.data import encoded

SHAPE, COUNT = (6, 5, 3), 4
ROWS = np.arange(COUNT)


def images(v):
  return np.random.default_rng(v).integers(0, 256, (COUNT, *SHAPE), np.uint8)


def bmp(picture):
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'BMP')  # of the same size for all pictures
  return file.getvalue()


def arrays(folder, v):
  np.savez(folder / 'a.npz', x=images(v))
  return lambda: npz.npz(folder / 'a.npz')


def mapped(folder, v):
  np.save(folder / 'x.npy', images(v))
  return lambda: npz.npz(folder)


def table(folder, v):
  (folder / 'a.csv').write_text('a\n' + ''.join(f'{v}.{i}\n' for i in ROWS))
  return lambda: tables.csv_table(folder / 'a.csv', ('a',))


def mixed_table(folder, v):
  (folder / 'a.csv').write_text('a,b\n' + ''.join(f'{v}.{i},{"pq"[i % 2]}\n' for i in range(9)))
  return lambda: mixed.table(folder / 'a.csv', test_fraction=0.2)


def folder_of_pictures(folder, v):
  for i, picture in enumerate(images(v)):
    (folder / f'{i}.bmp').write_bytes(bmp(picture))
  return lambda: image_folder.folder(str(folder), image_shape=SHAPE)


def captions(folder, v):
  (folder / 'a.bmp').write_bytes(bmp(images(0)[0]))
  (folder / 'metadata.jsonl').write_text(f'{{"file_name": "a.bmp", "text": "a {v}"}}\n')
  return lambda: image_folder.captioned(image_folder.folder(str(folder), image_shape=SHAPE))


def tars(folder, v):
  encoded.tar(folder / 'a.tar', [(f'{i}.png', bmp(x)) for i, x in enumerate(images(v))])
  return lambda: webdataset.webdataset(str(folder / 'a.tar'), image_shape=SHAPE)


def text(folder, v):
  (folder / 'a.txt').write_text(f'{v}' * 99)
  return lambda: text_files.text_files('train', str(folder), 16)


def crops(folder, v):
  (folder / 'a.bmp').write_bytes(bmp(images(v)[0]))
  return lambda: photos.photos([str(folder / 'a.bmp')], image_shape=(3, 3, 3))


def records(folder, v):
  """What tfds has prepared is read by its library; its sum is of files."""
  (folder / 'a.array_record').write_bytes(images(v).tobytes())
  source = object.__new__(tfds_sources.Records)
  source.files = [str(folder / 'a.array_record')]
  source._source = type('Source', (), {'split': 'train'})  # pyright: ignore[reportAttributeAccessIssue]
  return lambda: source


def rows(folder, v, **options):
  import pyarrow
  from pyarrow import parquet as pq

  cells = [{'bytes': bmp(x), 'path': None} for x in images(v)]
  file = folder / 'train.parquet'
  pq.write_table(pyarrow.table({'image': cells}), file, compression='none', use_dictionary=False)
  return lambda: huggingface.huggingface(str(file), image_shape=SHAPE, **options)


def streamed(folder, v):
  return rows(folder, v, streaming=4)


def hub_pictures(folder, v):
  (folder / 'train').mkdir(exist_ok=True)
  folder_of_pictures(folder / 'train', v)
  return lambda: huggingface.huggingface(str(folder), image_shape=SHAPE)


def hub_captions(folder, v):
  (folder / 'train').mkdir(exist_ok=True)
  captions(folder / 'train', v)
  return lambda: huggingface.huggingface(str(folder), image_shape=SHAPE, text_column='text')


def zipped(folder, v):
  with zipfile.ZipFile(folder / 'train.zip', 'w') as archive:
    for i, picture in enumerate(images(v)):
      archive.writestr(zipfile.ZipInfo(f'train/{i}.bmp'), bmp(picture))
  return lambda: huggingface.huggingface(str(folder), image_shape=SHAPE)


SETS = {
  'npz': (arrays, mapped),
  'csv': (table,),
  'table': (mixed_table,),
  'folder': (folder_of_pictures, captions),
  'webdataset': (tars,),
  'text': (text,),
  'photos': (crops,),
  'huggingface': (rows, streamed, hub_pictures, hub_captions, zipped),
  **dict.fromkeys(('tfds', 'cifar10', 'mnist'), (records,)),
}
EVERY = [*dict.fromkeys(x for each in SETS.values() for x in each)]


def test_every_set_that_reads_files_is_tried():
  reading = {
    name
    for kind in store.KINDS
    for name, constructor in kind.tables['data'].items()
    if any(use_of(x.annotation) == READ for x in parameters(constructor).values())
  }
  assert reading == {*SETS}


@pytest.fixture
def fixed(tmp_path, monkeypatch):
  """Gives files below a folder the times and inodes of an image with fixed times."""
  folder, stat = tmp_path / 'image', os.stat
  folder.mkdir()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  if importlib.util.find_spec('datasets'):
    monkeypatch.setattr('datasets.config.HF_DATASETS_CACHE', tmp_path / 'cache')

  def fixed_stat(path, **options):
    found = stat(path, **options)
    if isinstance(path, int) or not os.fsdecode(path).startswith(str(folder)):
      return found
    values = [*found[:10], *[0.0] * 3, *[0] * 3]
    values[1] = zlib.crc32(os.fsencode(path))  # the inode
    return os.stat_result([*values[:7], 0, 0, 0, *values[10:]])

  monkeypatch.setattr(os, 'stat', fixed_stat)
  return folder


def set_times(folder):
  for path in [folder, *folder.rglob('*')]:
    os.utime(path, (0, 0))
  return {path: path.stat() for path in folder.rglob('*')}


@pytest.mark.parametrize('read', [None, 0])
@pytest.mark.parametrize('write', EVERY, ids=lambda write: write.__name__)
def test_another_content_is_another_set(write, read, fixed, monkeypatch):
  """read=0: as of files that are too large to be read at each start."""
  if write in SETS['huggingface']:
    pytest.importorskip('datasets', reason="pip install -e '.[huggingface]': 120 MB")
  if read is not None:
    monkeypatch.setattr(sums, '_READ', read)
    monkeypatch.setattr(sums, '_READ_UNTIMED', read)
  sums_of, examples, stats = [], [], []
  for version in (1, 2, 1):
    source = write(fixed, version)
    stats.append(set_times(fixed))
    sums_of.append(source().checksum())
    examples += [] if write is records else [source().read(ROWS[:1])]
  assert stats[0] == stats[1], 'the contents differ by more than their bytes'
  assert sums_of[0] == sums_of[2] != sums_of[1]
  if examples:
    first, second, third = ({n: x.tobytes() for n, x in each.items()} for each in examples)
    assert first == third != second


@pytest.mark.parametrize('change', [0, 70_000, 10**6 - 1])
def test_one_byte_of_a_file_of_an_image_is_noticed(change, fixed, monkeypatch):
  """Times of whole seconds say nothing, and up to another limit all bytes are read."""
  for name, value in {'_READ': 0, '_SAMPLES': 2, '_BLOCK': 16}.items():
    monkeypatch.setattr(sums, name, value)
  data = bytearray(np.random.default_rng(0).bytes(10**6))
  found = []
  for flip in (0, 1):
    data[change] ^= flip
    (fixed / 'a').write_bytes(data)
    found.append(sums.of_path(fixed / 'a'))
  assert found[0] != found[1]


class Numbers:
  """The user's own source, without a checksum."""

  facts, factor = pictures((2, 2, 1)), 1

  def __init__(self, size=20, in_memory=True):
    self.size, self.in_memory, self.count = size, in_memory, 0

  def __len__(self):
    return self.size

  def read(self, index):
    self.count += len(index)
    x = self.factor * np.broadcast_to(index[:, None, None, None], (len(index), 2, 2, 1))
    return {'x': x.astype(np.uint8)}


class Random(Numbers):
  """Gives other examples each time, against the protocol."""

  def read(self, index):
    return {'x': np.random.default_rng().integers(0, 256, (len(index), 2, 2, 1), np.uint8)}


WRAPPED = {
  'itself': lambda source: source,
  'a part of it': lambda source: Part(source, np.arange(10)),
  'binarized': lambda source: Binarized(source, 'threshold'),
  'between': lambda source: Between(source, source),
  'that is not in memory': lambda source: Numbers.__init__(source, 20, False) or source,
}


@pytest.mark.parametrize('wrapped', WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize('total', [facts_sum, content_sum])
def test_a_source_without_a_checksum_is_read(wrapped, total, monkeypatch):
  first = total(wrapped(Numbers()))
  assert first and first == total(wrapped(Numbers()))
  monkeypatch.setattr(Numbers, 'factor', 17)
  assert total(wrapped(Numbers())) != first
  assert total(wrapped(Numbers(21))) != first or wrapped is WRAPPED['a part of it']


def test_of_a_large_source_some_examples_are_read(capsys):
  """It is said of how many, once; features of all examples are of all."""
  source = Numbers(50_000, in_memory=False)
  first = facts_sum(source)
  assert 10_000 <= source.count < 10_100 and first == facts_sum(Numbers(50_000, False))
  assert '10,000 of 50,000 examples: a checksum()' in capsys.readouterr().out
  assert facts_sum(Random()) == '' != content_sum(Random())
  source = Numbers(30_000)
  assert facts_sum(source) == content_sum(source)


def test_of_simulations_the_first_block_is_compared():
  sums_of = [
    facts_sum(Simulated(lambda rng, n, f=f: {'x': f * rng.normal(size=(n, 1))}, size, (0, False)))
    for f, size in ((1.0, 300), (1.0, 300), (2.0, 300), (1.0, 301))
  ]
  assert sums_of[0] == sums_of[1] and len({*sums_of}) == 3


MODULE = """
import numpy as np
from diffusion_jax.data.sources import pictures
class Source:
  in_memory = True
  facts = pictures((8, 8, 1), 10)
  def __init__(self, split):
    rng = np.random.default_rng(split == 'test')
    self.x, self.label = rng.integers(0, 20, (40, 8, 8, 1), np.uint8), rng.integers(0, 10, 40)
  def __len__(self):
    return 40
  def read(self, index):
    return {'x': 1 * self.x[index], 'label': self.label[index]}
"""


def test_a_run_of_such_a_source_notices_other_numbers(tmp_path, monkeypatch):
  """Scores are refused, and so is a training that would go on with other data."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  (tmp_path / 'own_numbers.py').write_text(MODULE)
  few = within('training', num_steps=1, batch_size=4) | {'data': 'own_numbers:Source'}
  MODES['train'](smoke(**few), tmp_path / 'run')
  scores = within('evaluation', metrics='loss', split='train', num_images=4)
  (tmp_path / 'own_numbers.py').write_text(MODULE.replace('1 * self', '7 * self'))
  del sys.modules['own_numbers']
  run = tmp_path / 'run'
  refused('trained on different examples', MODES['evaluate'], of_run(run, **scores), run)
  few['training.num_steps'] = 2
  refused('facts.checksum is', MODES['train'], smoke(**few), run)

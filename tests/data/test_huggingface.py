"""Sets of the Hugging Face hub, from folders and a file system in memory."""

import functools
import os
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import huggingface as huggingface_module, pipeline, set_files
from diffusion_jax.data.huggingface import HubRows, huggingface
from diffusion_jax.data.sources import ArraySource, Binarized
from diffusion_jax.data.splits import NoTestSplit
from tests.data import encoded
from tests.data.encoded import LABELS, PICTURES, PNG, SHAPE
from tests.refusals import one_line

datasets = pytest.importorskip('datasets', reason="pip install -e '.[huggingface]': 120 MB")


THIRD = encoded.png(PICTURES[2])
CLASSES = ['ant', 'bee', 'cat']


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')


def rows(part):
  images = [{'bytes': encoded.png(PICTURES[i]), 'path': None} for i in part]
  texts = [f'text {i}' for i in part]
  columns = {'image': images, 'label': LABELS[part], 'text': texts}
  columns['name'] = ['cat'] * len(texts)
  word, classes = datasets.Value('string'), datasets.ClassLabel(names=CLASSES)
  features = datasets.Features(image=datasets.Image(), label=classes, text=word, name=word)
  return datasets.Dataset.from_dict(columns, features)


@pytest.fixture
def folder(tmp_path):
  top = tmp_path / 'set' / 'data'
  top.mkdir(parents=True)
  for name, part in encoded.FILES.items():
    rows(part).to_parquet(top / f'{name}.parquet', batch_size=5)
  return tmp_path / 'set'


def read(folder, split='train', **options):
  options = {'num_classes': 3, 'image_shape': SHAPE} | options
  return huggingface(str(folder), split, **options)


@pytest.mark.parametrize('streaming', [0, 4000])
def test_batches_are_those_of_the_array(folder, streaming):
  encoded.assert_splits(functools.partial(read, folder), 'text', streaming=streaming)


def test_a_small_buffer_permutes_row_groups(folder):
  """Batches resume and are shared between hosts, like other sources."""
  source = read(folder, streaming=6)
  order = source.order(np.random.default_rng((3, 0, 0)))
  uniform = np.random.default_rng((3, 0, 0)).permutation(25)
  assert sorted(order) == list(range(25)) and (order != uniform).any()

  expected = encoded.train_set(functools.partial(ArraySource, order=source.order))
  encoded.assert_batches_of(source, expected)
  assert_array_equal(pipeline.batch_at(source, 8, 3, 0)['label'], order[:8] % 3)
  assert Binarized(source).order is source.order


def test_splits_may_be_parts(folder):
  parts = {'train_split': 'train[:80%]', 'test_split': 'train[80%:]'}
  parts['num_classes'] = 0
  train, test = (read(folder, split, **parts) for split in ('train', 'test'))
  assert test.read(np.arange(2)).keys() == {'x'}
  assert (len(train), len(test)) == (20, 5)
  assert_array_equal(test.read(np.arange(5))['x'], PICTURES[20:25])
  with pytest.raises(ValueError, match='streaming reads whole splits'):
    read(folder, streaming=4000, **parts)


def test_streamed_files_stay_where_they_are(folder, tmp_path, monkeypatch):
  """A file system in memory stands in for the hub's."""
  import fsspec

  system = fsspec.filesystem('memory')
  files = sorted((folder / 'data').glob('train-*'))
  for file in files:
    system.pipe(f'/{file.name}', file.read_bytes())
  builder = datasets.load_dataset_builder(
    'parquet', data_files={'train': [f'memory://{file.name}' for file in files]}
  )
  monkeypatch.setattr(datasets, 'load_dataset_builder', lambda *a, **k: builder)
  encoded.assert_batches_of(read('someone/pictures', streaming=4000), encoded.train_set())
  assert not [*(tmp_path / 'cache').rglob('*.arrow')]
  read(folder)
  assert [*(tmp_path / 'cache').rglob('*.arrow')]


@pytest.mark.parametrize('streaming', [0, 4000])
@pytest.mark.parametrize(
  'options, message',
  [
    ({'image_column': 'picture'}, "no column 'picture', but image, label, text, name$"),
    ({'label_column': 'name'}, "name must be an integer in 0..2, got 'cat'"),
    ({'image_column': 'text'}, 'text must be the bytes of an image file, got'),
    ({'train_split': 'all'}, "has no split 'all', but train, test"),
  ],
)
def test_a_column_that_does_not_fit_is_named(folder, options, message, streaming):
  with one_line(str(folder), match=message):
    read(folder, streaming=streaming, **options)


@pytest.mark.parametrize('streaming', [0, 4000])
def test_classes_are_those_of_the_set(folder, streaming):
  assert read(folder, streaming=streaming).facts.class_names == ('ant', 'bee', 'cat')
  assert read(folder, num_classes=0).facts.class_names == ()
  for wrong in 2, 10:
    with one_line(match=f'num_classes must be 3 for .*, got {wrong}'):
      read(folder, num_classes=wrong, streaming=streaming)


def test_a_set_without_test_split(folder):
  (folder / 'data' / 'test-00000-of-00001.parquet').unlink()
  with pytest.raises(NoTestSplit, match=r'but train: set test_split to .* train\[90%:\]'):
    read(folder, 'test')


@pytest.mark.parametrize('streaming', [0, 4000])
def test_a_file_cut_short_is_named(folder, streaming):
  cut = folder / 'data' / 'train-00001-of-00002.parquet'
  cut.write_bytes(cut.read_bytes()[:-100])
  with one_line(f'{cut} cannot be read as a parquet file'):
    read(folder, streaming=streaming)


def test_a_picture_cut_short_is_named(tmp_path):
  (tmp_path / 'set').mkdir()
  cells = [{'bytes': data, 'path': None} for data in (PNG, PNG[:90], THIRD)]
  datasets.Dataset.from_dict({'image': cells}).to_parquet(tmp_path / 'set' / 'train.parquet')
  fields = {'num_classes': 0, 'test_split': 'train'}
  source = read(tmp_path / 'set', **fields)
  with pytest.raises(ValueError, match='set, row 1: image cannot be read as'):
    source.read(np.array([0, 1]))
  with one_line(match='1 of 3 pictures in .*set are damaged: .*set, row 1'):
    read(tmp_path / 'set', check=True, **fields)
  source = read(tmp_path / 'set', skip_damaged=True, **fields)
  assert source.facts.skipped == (f'{tmp_path}/set, row 1',)
  assert_array_equal(source.read(np.arange(2))['x'], PICTURES[[0, 2]])
  with one_line('check and skip_damaged are for pictures without streaming'):
    read(tmp_path / 'set', check=True, streaming=9, **fields)


def test_folders_of_other_kinds(tmp_path):
  with pytest.raises(FileNotFoundError, match='folder .*/none not found'):
    read(tmp_path / 'none')
  (tmp_path / 'csv').mkdir()
  (tmp_path / 'csv' / 'train.csv').write_text('a,b\n1,2\n')
  with pytest.raises(ValueError, match='of the format csv, and parquet, arrow'):
    read(tmp_path / 'csv')
  (tmp_path / 'empty').mkdir()
  with one_line('empty cannot be read: '):
    read(tmp_path / 'empty')
  cats = tmp_path / 'pictures' / 'cats'
  cats.mkdir(parents=True)
  for i in range(2):
    (cats / f'{i}.png').write_bytes(encoded.png(PICTURES[i]))
  source = read(cats.parent, num_classes=0)
  assert_array_equal(source.read(np.arange(2))['x'], PICTURES[:2])


@pytest.mark.parametrize(
  'error, message',
  [
    (ModuleNotFoundError('', name='datasets'), 'the library datasets: pip install'),
    (
      ModuleNotFoundError("No module named 'dill'", name='dill'),
      "cannot be imported: No .* 'dill'",
    ),
    (ImportError('cannot import name x from pyarrow'), 'cannot be imported: cannot import name x'),
  ],
)
def test_a_broken_library_is_not_a_missing_one(error, message, folder, monkeypatch):
  def fail(name):
    raise error

  monkeypatch.setattr(huggingface_module.importlib, 'import_module', fail)
  with pytest.raises(ValueError, match=f'data=huggingface needs .*{message}'):
    read(folder)


def test_files_outside_of_the_splits_are_counted(folder, capsys, monkeypatch):
  """Names with train and test in them make splits; or a number is missing."""
  monkeypatch.setattr(set_files, '_SAID', set())
  top = folder / 'pictures'
  top.mkdir()
  for name in ('train_1', 'a', 'b', 'test_x'):
    (top / f'{name}.png').write_bytes(PNG)
  read(top, num_classes=0)
  line = f'{top}: 2 of 4 files are left out, such as a.png, b.png: names with train'
  assert line in capsys.readouterr().out
  (folder / 'data' / 'train-00000-of-00002.parquet').unlink()
  assert len(read(folder / 'data')) == 13
  line = 'data/train-*-of-00002.parquet has 1 of 2 files: the others are left'
  assert line in capsys.readouterr().out


@pytest.mark.parametrize('streaming', [0, 4000])
def test_a_path_may_be_one_file(folder, streaming):
  path = folder / 'data' / 'train-00000-of-00002.parquet'
  one = path.rename(path.with_name('One.PARQUET'))
  source = read(one, streaming=streaming)
  assert_array_equal(source.read(np.arange(12))['x'], PICTURES[:12])
  other = one.rename(one.with_suffix('.pkl'))
  with pytest.raises(ValueError, match='neither a folder nor a .parquet file'):
    read(other)


def test_only_images_below_the_set_are_opened(tmp_path):
  """`datasets` writes the paths of an image folder's own files."""
  inside, outside = tmp_path / 'set' / 'a.png', tmp_path / 'b.png'
  inside.parent.mkdir()
  for path in (inside, outside):
    path.write_bytes(PNG)
  link = inside.with_name('link.png')
  link.symlink_to(outside)
  paths = [inside, outside, link, inside.parent / 'pipe']
  os.mkfifo(paths[-1])
  cells = [{'bytes': None, 'path': str(path)} for path in paths]
  dataset = datasets.Dataset.from_dict({'image': cells})
  first, *others = HubRows('x', dataset, tmp_path / 'set').get(['image'], np.arange(4))['image']
  assert first == inside.read_bytes()
  assert others == cells[1:]  # no bytes, which are refused
  assert HubRows('x', dataset).get(['image'], np.arange(4)) == {'image': cells}


def test_a_set_of_the_hub_reads_its_own_part_of_the_cache(tmp_path, monkeypatch):
  """Files of the hub's cache are links to blobs; archives stay zips."""
  hf_hub = pytest.importorskip('huggingface_hub', reason='see datasets')
  hub = tmp_path / 'hub'
  monkeypatch.setattr(hf_hub.constants, 'HF_HUB_CACHE', str(hub))
  other = hub / 'datasets--someone--else' / 'a.png'
  blob = hub / 'datasets--someone--pictures' / 'blobs' / '0a1b'
  snapshot = blob.parent.parent / 'snapshots' / 'c0ffee'
  for path in (other, blob, snapshot / 'x'):
    path.parent.mkdir(parents=True)
  for path in (other, blob):
    path.write_bytes(PNG)
  (snapshot / 'own.png').symlink_to(blob)
  (snapshot / 'theirs.png').symlink_to(other)
  with zipfile.ZipFile(snapshot / 'more.zip', 'w') as archive:
    archive.writestr('1.png', encoded.png(PICTURES[1]))

  def builder_of(*names):
    files = {'train': [str(snapshot / name) for name in names]}
    return datasets.load_dataset_builder('imagefolder', data_files=files)

  made = iter([builder_of('own.png', 'more.zip'), builder_of('theirs.png')])
  next_made = lambda *args, **options: next(made)
  monkeypatch.setattr(datasets, 'load_dataset_builder', next_made)
  source = read('someone/pictures', num_classes=0)
  assert_array_equal(source.read(np.arange(2))['x'], PICTURES[:2])
  with pytest.raises(ValueError, match='row 0'):
    read('someone/pictures', num_classes=0).read(np.arange(1))


@pytest.mark.parametrize('streaming', [0, 100])
def test_lists_of_numbers_are_arrays_with_a_context(tmp_path, streaming):
  rng = np.random.default_rng(0)
  theta, seen = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
  columns = {'theta': theta.tolist(), 'seen': seen.tolist()}
  columns['text'] = ['no number'] * 9
  top = tmp_path / 'numbers'
  top.mkdir()
  datasets.Dataset.from_dict(columns).to_parquet(str(top / 'train-00000-of-00001.parquet'))
  fields = {'x_column': 'theta', 'streaming': streaming}
  source = huggingface(str(top), context_column='seen', **fields)
  assert source.facts.x.shape == (3,) and source.facts.context.shape == (2,)
  found = source.read(np.array([7, 0]))
  assert_array_equal(found['context'], seen[[7, 0]])
  assert set(huggingface(str(top), **fields).read(np.arange(1))) == {'x'}
  with pytest.raises(ValueError, match="no column 'lost', but theta"):
    huggingface(str(top), context_column='lost', **fields)
  with pytest.raises(ValueError, match='text must be a list of numbers'):
    huggingface(str(top), x_column='text', streaming=streaming)

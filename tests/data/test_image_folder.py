"""A folder of pictures is a set with labels, splits and captions by its names."""

import os
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.data import image_folder, pipeline
from diffusion_jax.data.sources import content_sum, labels_of
from tests.data import encoded
from tests.refusals import one_line

PLAIN = {'red': (200, 0, 0), 'green': (0, 200, 0), 'blue': (0, 0, 200)}


def save(path, colour, size=(40, 30), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, colour).save(path, **options)


@pytest.fixture
def classes(tmp_path):
  for name, colour in PLAIN.items():
    for i, size in enumerate([(40, 30), (64, 64), (9, 50)]):
      save(tmp_path / name / f'{i}.png', colour, size)
  return tmp_path


def test_sub_folders_are_classes_in_the_order_of_their_names(classes):
  source = image_folder.folder(classes, 'train', (16, 8, 3), labelled=True)
  assert (len(source), source.facts.num_classes) == (9, 3)
  assert source.facts.class_names == ('blue', 'green', 'red')
  assert source.facts.x.shape == (16, 8, 3) and not source.in_memory
  images, labels = source.read(np.array([0, 3, 6, 8])).values()
  assert images.dtype == np.uint8 and labels.dtype == np.int32
  assert labels.tolist() == [0, 1, 2, 2]  # blue, green, red, red
  assert labels_of(source).tolist() == [0] * 3 + [1] * 3 + [2] * 3
  for image, label in zip(images, labels, strict=True):
    assert_array_equal(image, np.broadcast_to(PLAIN[sorted(PLAIN)[label]], (16, 8, 3)))


def test_without_labels_everything_below_is_taken(classes):
  save(classes / 'deep' / 'er' / 'a.JPG', (9, 9, 9))
  save(classes / 'top.WebP', (9, 9, 9), lossless=True)
  source = image_folder.folder(classes, 'train', (8, 8, 3))
  assert (len(source), source.facts.num_classes) == (11, 0)
  assert source.read(np.array([2])).keys() == {'x'}


def test_all_suffixes_and_names_are_read(tmp_path):
  """Names of classes that UTF-8 lacks can be printed."""
  suffixes = [*image_folder.SUFFIXES, *map(str.upper, image_folder.SUFFIXES)]
  for name in suffixes:
    save(tmp_path / os.fsdecode(b'caf\xe9') / f'a{name}', (1, 2, 3))
  train, test = (
    image_folder.folder(tmp_path, split, labelled=True, image_shape=(8, 8, 3), test_fraction=0.5)
    for split in ('train', 'test')
  )
  assert len(train) + len(test) == len(suffixes)
  assert train.read(np.arange(len(train)))['x'].shape[0] == len(train)
  assert train.facts.class_names == ('caf\\xe9',)


@pytest.mark.parametrize('name', image_folder.TEST_FOLDERS)
def test_train_and_test_folders_are_splits(name, classes, tmp_path_factory):
  top = tmp_path_factory.mktemp('splits')
  classes.rename(top / 'train')
  save(top / name / 'green' / 'x.png', PLAIN['green'])
  train = image_folder.folder(top, 'train', (8, 8, 3), labelled=True)
  val = image_folder.folder(top, 'test', (8, 8, 3), labelled=True)
  assert (len(train), len(val)) == (9, 1)
  assert (train.facts.num_classes, val.facts.num_classes) == (3, 3)
  assert val.read(np.array([0]))['label'].tolist() == [1]  # the number it has in train


def names(source):
  return {path.name for path in source.paths}


def test_a_fraction_is_held_out_and_stays_held_out(tmp_path):
  for i in range(200):
    (tmp_path / f'{i}.png').write_bytes(encoded.PNG)
  train, test = (image_folder.folder(tmp_path, s, test_fraction=0.3) for s in ('train', 'test'))
  assert not names(train) & names(test) and len(train) + len(test) == 200
  assert abs(len(test) - 60) < 5 * (200 * 0.3 * 0.7) ** 0.5
  for i in range(200, 300):
    (tmp_path / f'{i}.png').write_bytes(encoded.PNG)
  assert names(test) <= names(image_folder.folder(tmp_path, 'test', test_fraction=0.3))


@pytest.mark.parametrize('num_threads', [1, 4])
def test_a_damaged_file_is_named_through_the_threads(classes, num_threads):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  path = classes / 'red' / 'bad.png'
  Image.fromarray(noise).save(path)
  path.write_bytes(path.read_bytes()[:2000])
  source = image_folder.folder(classes, 'train', (8, 8, 3))
  assert len(source) == 10
  stream = pipeline.batches(source, 5, 0, num_threads=num_threads)
  with one_line('red/bad.png cannot be read'):
    for _ in range(2):  # the first epoch
      next(stream)


def captioned(top, lines, *names, split='train', folder=''):
  for name in names:
    save(top / folder / f'{name}.png', (1, 2, 3))
  (top / folder / 'metadata.jsonl').write_text(lines)
  return image_folder.captioned(image_folder.folder(top, split, (8, 8, 3)))


def test_captions_belong_to_their_pictures(tmp_path):
  lines = """{"file_name": "dogs/1.png", "text": "a dog", "source": 7}

{"file_name": "cats/1.png", "text": "a cat"}"""
  source = captioned(tmp_path, lines, 'cats/1', 'dogs/1')
  arrays = source.read(np.array([0, 1, 1]))
  assert arrays['text'].tolist() == ['a cat', 'a dog', 'a dog']
  assert len(source) == 2 and len(arrays['x']) == 3


def test_each_split_has_captions_of_its_own(tmp_path):
  for split in ('train', 'test'):
    line = f'{{"file_name": "x.png", "text": "of {split}"}}'
    source = captioned(tmp_path, line, 'x', split=split, folder=split)
    assert source.read(np.array([0]))['text'] == [f'of {split}']


def test_a_checksum_is_of_names_and_contents(classes):
  def checksum(root):
    return image_folder.folder(root, labelled=True).checksum()

  first = checksum(classes)
  assert checksum(classes) == first
  moved = classes.rename(classes.with_name('elsewhere'))
  assert checksum(moved) == first
  picture = moved / 'red' / '0.png'
  renamed = picture.rename(picture.with_name('00.png'))  # in its place
  other = checksum(moved)
  renamed.rename(picture)
  content, times = picture.read_bytes(), picture.stat()
  picture.write_bytes(content[:-1] + b' ')  # as large and as old
  os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
  changed = checksum(moved)
  picture.write_bytes(content)
  assert checksum(shutil.copytree(moved, moved / '..' / 'copy', copy_function=shutil.copy)) == first
  picture.unlink()
  assert len({first, other, changed, checksum(moved)}) == 4


def test_a_sum_is_of_the_content_or_of_the_files_as_they_are(tmp_path):
  """The sum of all pictures is of their files, and the sum of the first ones of their pixels."""
  for i in range(3):
    save(tmp_path / f'{i}.png', (i, 0, 0))
  source = image_folder.folder(tmp_path, image_shape=(8, 8, 3))
  sums = lambda: (content_sum(source), content_sum(source, 2))
  whole, first = sums()
  assert sums() == (whole, first)
  save(tmp_path / '2.png', (90, 90, 90))
  assert sums()[0] != whole and sums()[1] == first
  save(tmp_path / '0.png', (90, 90, 90))
  assert sums()[1] != first

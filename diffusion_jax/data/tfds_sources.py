"""Data sets of TensorFlow Datasets (tfds), read without TensorFlow.

CIFAR-10 and MNIST are loaded into memory; other sets are read from disk.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data import buckets, prepare
from diffusion_jax.data.columns import Columns, ColumnSource
from diffusion_jax.data.sources import ArraySource, blocks, facts_of_fields, pictures, states
from diffusion_jax.data.splits import check_split
from diffusion_jax.data.sums import digest, of_files
from diffusion_jax.declared import Free, declares
from diffusion_jax.errors import naming
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Count, ImageShape, meant, nearest

CIFAR10_CLASSES = (*'airplane automobile bird cat deer dog frog horse ship truck'.split(),)


def _downloads(constructor):
  # Marks a constructor that may use the network, with whether it needs it.
  name = constructor.__name__
  constructor.is_here = lambda split, data_dir='': prepare.is_here(name, data_dir)
  return constructor


@declares(what='the sets of that name', needs='a network once, or their archives')
@_downloads
@states(lambda **_: pictures((32, 32, 3), 10, CIFAR10_CLASSES))
def cifar10(split: str = 'train', data_dir: Free[ReadPath | Path] = '') -> ArraySource:
  """Returns CIFAR-10: 50,000 and 10,000 images 32x32x3, labels 0..9.

  Downloads and prepares the set if necessary. Raises ValueError or OSError.
  """
  return _in_memory('cifar10', split, data_dir, CIFAR10_CLASSES)


@declares(what='the sets of that name', needs='a network once, or their archives')
@_downloads
@states(lambda **_: pictures((28, 28, 1), 10))
def mnist(split: str = 'train', data_dir: Free[ReadPath | Path] = '') -> ArraySource:
  """Returns MNIST: 60,000 and 10,000 images 28x28x1, labels 0..9.

  Downloads and prepares the set if necessary. Raises ValueError or OSError.
  """
  return _in_memory('mnist', split, data_dir)


def _in_memory(name, split, data_dir, classes=()):
  check_split(split)
  records = Records(prepare.prepare(name, data_dir), split)
  size = len(records)
  images = np.empty((size, *records.features['image'].shape), np.uint8)
  labels = np.empty(size, np.int32)
  for index in blocks(size):
    cells = records.get(records.columns, index)
    images[index], labels[index] = cells['image'], cells['label']
  # The order of the files depends on who prepared the set; batches must not.
  digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
  order = sorted(range(size), key=lambda i: (digests[i], labels[i]))
  return ArraySource(images[order], labels[order], 10, class_names=classes)


@declares(
  what=(
    'any set of the [tfds catalogue](https://www.tensorflow.org/datasets/catalog/overview) '
    'with pictures'
  ),
  needs='`data.dataset`, prepared once',
)
@states(facts_of_fields)
def tfds(
  split: str,
  dataset: str,
  image_shape: ImageShape = (64, 64, 3),
  num_classes: Count = 0,
  data_dir: Free[ReadPath] = '',
  train_split: str = 'train',
  test_split: str = 'test',
) -> ColumnSource:
  """Returns images of TensorFlow Datasets, prepared as array_record.

  dataset: `name[/config][:version]`; num_classes: 0 for no labels; data_dir: by
  default $TFDS_DATA_DIR or tfds' own folder; train_split, test_split: such as
  'train[:90%]'. Raises ValueError or
  FileNotFoundError with one line that says what to do.
  """
  if buckets.is_address(data_dir):
    buckets.local(f'{data_dir.rstrip("/")}/{dataset.replace(":", "/")}')
    data_dir = str(buckets.place(data_dir))
  folder = prepare.prepared_by_tfds(dataset, data_dir)
  if folder is None:
    raise _not_prepared(dataset, data_dir)
  prepare.check_prepared(folder)
  records = Records(folder, train_split if split == 'train' else test_split)
  image, label = map(records.features.get, ('image', 'label'))
  found = getattr(label, 'num_classes', None) if num_classes else 0
  is_image = image and image.np_dtype == np.uint8 and len(image.shape) == 3
  if not is_image or found is None:
    raise ValueError(
      f'{dataset} must have a feature `image` of uint8 pictures, and `label` '
      'of classes unless num_classes=0; it has '
      f'{", ".join(records.features)}'
    )
  if found != num_classes:
    raise ValueError(f'num_classes must be {found} for {dataset}, got {num_classes}')
  columns = Columns('image', 'label' if num_classes else '')
  names = label.names if label and num_classes else ()
  facts = pictures(image_shape, num_classes, names)
  return ColumnSource(records, columns, np.arange(len(records)), facts)


class Records:
  """Reads the examples of a split of a prepared set by index."""

  def __init__(self, folder: Path, split: str):
    import tensorflow_datasets as tfds

    # The annotations of tfds lack attributes of builders of files.
    builder: Any = tfds.builder_from_directory(folder)
    self.features = dict(builder.info.features.items())
    self.name, self.columns = str(folder), ['image', 'label']
    names = ', '.join(builder.info.splits)
    with self._naming(), contextlib.suppress(KeyError, ValueError, AssertionError):
      self._source = builder.as_data_source(split)
      self.files = [x.filename for x in builder.info.splits[split].file_instructions]
    if not hasattr(self, 'files'):
      raise ValueError(f'{folder} has no split {split!r}, but {names}')

  def __len__(self) -> int:
    return len(self._source)

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    with self._naming():
      examples = self._source.__getitems__([int(i) for i in index])
    return {column: [x[column] for x in examples] for column in columns}

  def place(self, i: int) -> str:
    return f'{self.name}, example {i}'

  def checksum(self) -> str:
    """Returns the sum of the files; decoded pixels depend on the decoder."""
    return digest([of_files(self.files).encode(), str(self._source.split).encode()])

  def _naming(self):
    return naming(f'{self.name} is damaged; delete it and prepare it again')


def _not_prepared(name, data_dir) -> Exception:
  # Returns the error that says why a set is missing, and what to do.
  import tensorflow_datasets as tfds

  base = name.partition(':')[0].partition('/')[0]
  builders = tfds.list_builders(with_community_datasets=False)
  top = prepare.default_data_dir(data_dir)
  if base not in builders:
    hint = meant(nearest(base, builders, 3))
    return ValueError(f'neither tfds nor {top} has a set {base!r}{hint}')
  return FileNotFoundError(
    f'{name} is not prepared in {top}: run `pip install tensorflow-cpu` and '
    f'`tfds build {name} --file_format=array_record --data_dir={top}` once'
  )

"""ArrayRecord files whose records are tf.train.Example, without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.columns import Columns, ColumnSource, files_at, of_files
from diffusion_jax.data.files import naming
from diffusion_jax.data.sources import facts_of_fields, states
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Count, ImageShape, Rate


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Reads the features of records; source: of grain."""

  name: str
  source: Any
  columns: Sequence[str]
  files: Sequence[Path] = ()

  def __len__(self) -> int:
    return len(self.source)

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    with naming(f'{self.name} is damaged', RuntimeError, OSError):
      records = self.source.__getitems__([int(i) for i in index])
    pairs = zip(index, records, strict=True)
    rows = [_features(self.place(i), record) for i, record in pairs]
    return {column: [row.get(column) for row in rows] for column in columns}

  def place(self, i: int) -> str:
    return f'{self.name}, record {i}'


@states(facts_of_fields)
def array_record(
  path: ReadPath,
  split: str = 'train',
  image_shape: ImageShape = (64, 64, 3),
  num_classes: Count = 0,
  image_column: str = 'image',
  label_column: str = 'label',
  text_column: str = '',
  test_path: ReadPath = '',
  test_fraction: Rate = 0.0,
  check: bool = False,
  skip_damaged: bool = False,
) -> ColumnSource:
  """Returns the images of ArrayRecord files of tf.train.Example.

  path: a file, a folder, or a pattern such as 'train-*'; test_path: the same
  for the test split, by default a fixed random test_fraction. Columns are
  features: the bytes of an image file, an integer (read if num_classes is not
  0), a text. check, skip_damaged: see `columns.checked`. Raises
  ValueError or FileNotFoundError.
  """
  columns = Columns(image_column, label_column, text_column)
  fields = split, path, test_path, test_fraction, image_shape, num_classes
  return of_files(_open, columns, *fields, check, skip_damaged)


def _open(path, columns):
  # Returns the records of files, all columns; ValueError names a damaged file.
  from grain.sources import ArrayRecordDataSource

  files = files_at(path, '.array_record*')
  for file in files:
    what = f'{file} is cut short or no ArrayRecord file'
    with naming(what, RuntimeError, OSError):
      ArrayRecordDataSource([file])
  table = Examples(path, ArrayRecordDataSource(files), (), files)
  if not len(table):
    return table
  first = _features(table.place(0), table.source[0])
  return dataclasses.replace(table, columns=[*first])


def _features(place, record):
  # Returns {name: the only value, or the list of several, of a feature}.
  from google.protobuf.message import DecodeError
  from tensorflow_datasets.proto import tf_example_pb2

  messages: Any = tf_example_pb2  # its classes are made at run time
  try:
    example = messages.Example.FromString(record)
  except DecodeError:
    raise ValueError(f'{place} is not a tf.train.Example') from None
  features = {}
  for name, feature in sorted(example.features.feature.items()):
    kind = feature.WhichOneof('kind')
    values = list(getattr(feature, kind).value) if kind else []
    features[name] = values[0] if len(values) == 1 else values or None
  return features

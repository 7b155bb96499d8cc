"""Data sets of the Hugging Face hub, or folders of its format.

The library `datasets` finds the files and splits. It executes no code of a set.
"""

import contextlib
import importlib
import itertools
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.columns import (
  Columns,
  ColumnSource,
  checked,
  of_numbers,
)
from diffusion_jax.data.parquet import image_bytes, open_parquet
from diffusion_jax.data.sources import facts_of_fields, pictures, states
from diffusion_jax.data.splits import NoTestSplit, check_split
from diffusion_jax.ranges import Count, ImageShape

# Formats that contain no pickles.
FORMATS = 'parquet', 'arrow', 'imagefolder'


class Rows:
  """Reads rows of a `datasets.Dataset`, whose table is mapped into memory.

  folder: images may be files below it; None: all are bytes in the table.
  """

  def __init__(self, name: str, dataset: Any, folder: Path | None = None):
    self.name, self.columns = name, dataset.column_names
    self._folder = folder and folder.resolve()
    self._dataset = dataset.with_format('arrow')  # images stay encoded

  def __len__(self) -> int:
    return len(self._dataset)

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    rows = self._dataset.select_columns(columns)[index.tolist()]
    return {
      column: [self._read(image_bytes(x)) for x in rows[column].to_pylist()]
      for column in columns
    }

  def _read(self, cell):
    if not isinstance(cell, dict) or self._folder is None:
      return cell
    inside, _, name = (cell.get('path') or '').rpartition('::')
    path = Path(name).resolve()
    if not path.is_relative_to(self._folder) or not path.is_file():
      return cell  # `ColumnSource` refuses it
    if inside.startswith('zip://'):  # as `datasets` names a picture of a zip
      with contextlib.suppress(zipfile.BadZipFile, KeyError):
        with zipfile.ZipFile(path) as archive:
          return archive.read(inside.removeprefix('zip://'))
    return cell if inside else path.read_bytes()

  def place(self, i: int) -> str:
    return f'{self.name}, row {i}'


@states(facts_of_fields)
def huggingface(
  path: str,
  split: str = 'train',
  image_shape: ImageShape = (64, 64, 3),
  num_classes: Count = 0,
  image_column: str = 'image',
  label_column: str = 'label',
  text_column: str = '',
  x_column: str = '',
  context_column: str = '',
  subset: str = '',
  revision: str = '',
  train_split: str = 'train',
  test_split: str = 'test',
  streaming: Count = 0,
) -> ColumnSource:
  """Returns images of the Hugging Face hub or of a local folder.

  path: a name such as 'ylecun/mnist', or a folder; num_classes: 0 for no
  labels; x_column: a column of lists of numbers, which is read in place of the
  images, and context_column a condition; train_split, test_split: such as
  'train[:90%]'; streaming: 0, or the images in a buffer, such as 4000: parquet
  files are read where they are, row groups are permuted, and the images of a
  buffer. Raises ValueError or OSError.
  """
  check_split(split)
  name = train_split if split == 'train' else test_split
  label = label_column if num_classes else ''
  columns = Columns(image_column, label, text_column)
  if x_column:
    columns = Columns(x=x_column, context=context_column)
  datasets = _datasets()
  builder = _builder(path, subset, revision)
  # Raises ValueError, or NoTestSplit, if the set has no such split.
  part, files = name.partition('[')[0], builder.config.data_files or {}
  if part not in files:
    kind = NoTestSplit if split == 'test' else ValueError
    raise kind(
      f'{path} has no split {part!r}, but {", ".join(map(str, files))}: set '
      f'{split}_split to one, or to a part such as {next(iter(files), "")}'
      '[90%:]'
    )
  if streaming:
    table = _streamed(path, builder, name, columns.read, streaming)
    order = table.order
    features = datasets.Features.from_arrow_schema(table.schema)
  else:
    dataset, order = _prepared(path, builder, name), None
    table = Rows(path, dataset, _folder_of(path, builder))
    features = dataset.features
  rows = np.arange(len(table))
  if x_column:
    return of_numbers(table, columns, rows, order)
  names = getattr(features.get(label), 'names', None) or ()
  if names and len(names) != num_classes:
    raise ValueError(
      f'num_classes must be {len(names)} for {path}, got {num_classes}'
    )
  facts = pictures(image_shape, num_classes, names)
  return checked(ColumnSource(table, columns, rows, facts, order))


def _datasets():
  try:
    return importlib.import_module('datasets')
  except ImportError:
    raise ValueError(
      'data=huggingface needs the library datasets: pip install -e '
      "'.[huggingface]'"
    ) from None


def _builder(path, subset, revision):
  # Returns the builder of a set, which knows its files; downloads no images.
  datasets = _datasets()
  local = Path(path).expanduser()
  if path.startswith(('/', '.', '~')) and not local.is_dir():
    raise FileNotFoundError(f'folder {path} not found')
  name = str(local) if local.is_dir() else path
  with _in_one_line(path):
    builder = datasets.load_dataset_builder(
      name, subset or None, revision=revision or None
    )
  kind = _kind(builder)
  if kind not in FORMATS:
    raise ValueError(
      f'{path} is a set of the format {kind}, and {", ".join(FORMATS)} are read'
    )
  return builder


def _kind(builder):
  return type(builder).__module__.rpartition('.')[-1]


def _folder_of(path, builder):
  # Returns where the image files of a set are: its folder, or its part of the
  # hub's cache.
  if _kind(builder) != 'imagefolder':
    return None
  local = Path(path).expanduser()
  if local.is_dir():
    return local
  cache = importlib.import_module('huggingface_hub').constants.HF_HUB_CACHE
  return Path(cache) / f'datasets--{path.replace("/", "--")}'


def _prepared(path, builder, split):
  # Returns a split, an Arrow table in the cache of `datasets`.
  if _kind(builder) == 'parquet':  # Name a damaged file.
    files = itertools.chain(*builder.config.data_files.values())
    open_parquet(path, [file for file in files if '://' not in file], (), 1)
  with _in_one_line(path):
    builder.download_and_prepare()
    return builder.as_dataset(split)


def _streamed(path, builder, split, read, buffer):
  from fsspec.core import url_to_fs

  def open_file(file):
    system, place = url_to_fs(file)
    return system.open(place, 'rb')

  if _kind(builder) != 'parquet' or '[' in split:
    raise ValueError(
      f'{path}: streaming reads whole splits of parquet files; this is '
      f'{split!r} of {_kind(builder)} files'
    )
  files = builder.config.data_files[split]
  return open_parquet(path, files, read, buffer, open_file)


@contextlib.contextmanager
def _in_one_line(path):
  # Turns an error of `datasets`, whose first cause says most, into one line.
  log = logging.getLogger('datasets')
  level = log.level
  log.setLevel(logging.CRITICAL)
  try:
    yield
  except Exception as error:  # It raises errors of many libraries.
    cause = error.__cause__ or error
    reason = ' '.join(str(cause).split()) or type(cause).__name__
    raise ValueError(f'{path} cannot be read: {reason:.400}') from None
  finally:
    log.setLevel(level)

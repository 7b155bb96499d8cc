"""Data sets of the Hugging Face hub, or folders of its format.

The library `datasets` finds the files and splits. It executes no code of a set.
"""

import contextlib
import importlib
import itertools
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data import buckets
from diffusion_jax.data.columns import Columns, ColumnSource, checked, of_numbers
from diffusion_jax.data.parquet import image_bytes, open_parquet
from diffusion_jax.data.set_files import files_below, say_left_out, say_missing
from diffusion_jax.data.sources import facts_of_fields, pictures, states
from diffusion_jax.data.splits import NoTestSplit, check_split
from diffusion_jax.data.sums import identity
from diffusion_jax.declared import Free, declares
from diffusion_jax.errors import naming
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Count, ImageShape

# Formats that contain no pickles.
FORMATS = 'parquet', 'arrow', 'imagefolder'
# Files about a set that `datasets` reads or the hub shows.
_ABOUT = ('README.md', 'dataset_info.json', 'dataset_infos.json', 'state.json')
_ABOUT += tuple(f'metadata.{end}' for end in ('jsonl', 'csv', 'parquet'))


class HubRows:
  """Reads rows of a `datasets.Dataset`, whose table is mapped into memory.

  folder: images may be files below it; None: all are bytes in the table. files: of this machine,
  from which the table was made.
  """

  def __init__(
    self, name: str, dataset: Any, folder: Path | None = None, files: Sequence[str] = ()
  ):
    self.name, self.columns = name, dataset.column_names
    is_part = '[' in str(dataset.split)  # the names of files do not tell a part of a split
    tables = [x['filename'] for x in dataset.cache_files]
    self.files = [] if is_part else files or tables
    self._folder = folder and folder.resolve()
    self.schema = dataset.features.arrow_schema
    self._dataset = dataset.with_format('arrow')  # images stay encoded

  def __len__(self) -> int:
    return len(self._dataset)

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    rows = self._dataset.select_columns(columns)[index.tolist()]
    return {
      column: [self._read(image_bytes(x)) for x in rows[column].to_pylist()] for column in columns
    }

  def _read(self, cell):
    if not isinstance(cell, dict) or self._folder is None:
      return cell
    inside, _, name = (cell.get('path') or '').rpartition('::')
    path = Path(name).resolve()
    if not path.is_relative_to(self._folder) or not path.is_file():
      return cell  # `ColumnSource` refuses it
    if inside.startswith('zip://'):  # `datasets` names a picture in a zip so
      errors = zipfile.BadZipFile, KeyError
      with contextlib.suppress(*errors), zipfile.ZipFile(path) as archive:
        return archive.read(inside.removeprefix('zip://'))
    return cell if inside else path.read_bytes()

  def place(self, i: int) -> str:
    return f'{self.name}, row {i}'


@declares(
  what=(
    'a set of the [Hugging Face hub](https://huggingface.co/datasets), or a folder of its format'
  ),
  needs="`data.path`; `pip install -e '.[huggingface]'`",
)
@states(facts_of_fields)
def huggingface(
  path: ReadPath,
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
  check: Free[bool] = False,
  skip_damaged: bool = False,
) -> ColumnSource:
  """Returns images of the Hugging Face hub or of a local folder.

  path: a name such as 'ylecun/mnist', or a folder; num_classes: 0 for no
  labels; x_column: a column of lists of numbers, which is read in place of the
  images, and context_column a condition; train_split, test_split: such as
  'train[:90%]'; streaming: 0, or the images in a buffer, such as 4000: parquet
  files are read where they are, row groups are permuted, and the images of a
  buffer; check, skip_damaged: see `columns.checked`. Raises
  ValueError or OSError.
  """
  check_split(split)
  if (check or skip_damaged) and (streaming or x_column):
    raise ValueError('check and skip_damaged are for pictures without streaming: leave one out')
  name = train_split if split == 'train' else test_split
  label = label_column if num_classes else ''
  columns = Columns(image_column, label, text_column)
  if x_column:
    columns = Columns(x=x_column, context=context_column)
  path = path if streaming else buckets.local(path)
  builder = _builder(path, subset, revision)
  _check_part(path, name, builder, split)
  if streaming:
    table = _streamed(path, builder, name, columns.read, streaming)
    order = table.order
  else:
    table, order = _prepared(path, builder, name), None
  rows = np.arange(len(table))
  if x_column:
    return of_numbers(table, columns, rows, order)
  names = _class_names(path, table.schema, label, num_classes)
  facts = pictures(image_shape, num_classes, names)
  return checked(ColumnSource(table, columns, rows, facts, order), check, skip_damaged)


def _check_part(path, name, builder, split):
  # Raises ValueError, or NoTestSplit, if the set has no such split.
  part, files = name.partition('[')[0], builder.config.data_files or {}
  if part not in files:
    kind = NoTestSplit if split == 'test' else ValueError
    raise kind(
      f'{path} has no split {part!r}, but {", ".join(map(str, files))}: set '
      f'{split}_split to one, or to a part such as {next(iter(files), "")}'
      '[90%:]'
    )


def _builder(path, subset, revision):
  # Returns the builder of a set, which knows its files; downloads no images.
  try:
    datasets = importlib.import_module('datasets')
  except ImportError as error:
    install = "pip install -e '.[huggingface]'"
    if isinstance(error, ModuleNotFoundError) and error.name == 'datasets':
      raise ValueError(f'data=huggingface needs the library datasets: {install}') from None
    raise ValueError(
      f'data=huggingface needs the library datasets, which cannot be imported: {error}: {install} '
      'installs what it needs'
    ) from None
  local, files = Path(path).expanduser(), None
  name = str(local) if local.exists() else path
  if path.startswith(('/', '.', '~')) and not local.exists():
    raise FileNotFoundError(f'folder {path} not found')
  if local.is_file():
    name, files = local.suffix[1:].lower(), {'train': [str(local)]}
    if name not in FORMATS:
      raise ValueError(f'{path} is neither a folder nor a .parquet file')
  with _reading(path):
    builder = datasets.load_dataset_builder(
      name, subset or None, data_files=files, revision=revision or None
    )
  kind = _kind(builder)
  if kind not in FORMATS:
    raise ValueError(f'{path} is a set of the format {kind}, and {", ".join(FORMATS)} are read')
  _say_left_out(path, local, builder)
  return builder


def _say_left_out(path, local, builder):
  # `datasets` makes splits of the files with train and test in their names.
  splits = builder.config.data_files or {}
  files = {os.path.realpath(x) for x in itertools.chain(*splits.values())}
  say_missing(files)
  below = files_below(local, ['']) if local.is_dir() else []
  below = [name for name in below if name.rpartition('/')[2] not in _ABOUT]
  others = [x for x in below if os.path.realpath(local / x) not in files]
  counts = ', '.join(f'{name} ({len(x)})' for name, x in splits.items())
  why = f'names with train or test make the splits {counts}; data=folder reads all pictures'
  say_left_out(path, len(others), len(below), 'files', others, why)


def _kind(builder):
  return type(builder).__module__.rpartition('.')[-1]


def _folder_of(path, builder):
  # The image files of a set are in its folder, or in the hub's cache.
  if _kind(builder) != 'imagefolder':
    return None
  local = Path(path).expanduser()
  if local.is_dir():
    return local
  cache = importlib.import_module('huggingface_hub').constants.HF_HUB_CACHE
  return Path(cache) / f'datasets--{path.replace("/", "--")}'


def _prepared(path, builder, split):
  # Returns the rows of a split, an Arrow table in the cache of `datasets`, which names tables by
  # the paths and times of files: here the name also has what is in files of this machine.
  every = [*itertools.chain(*builder.config.data_files.values())]
  files = builder.config.data_files[split.partition('[')[0]]
  if _kind(builder) == 'parquet':  # Name a damaged file.
    open_parquet(path, [file for file in every if '://' not in file], (), 1)
  with _reading(path):
    is_here = not any('://' in file for file in every)
    place = f'{builder.cache_dir}-{identity(every)}' if is_here else None
    builder.download_and_prepare(place)
    dataset = builder.as_dataset(split)
  return HubRows(path, dataset, _folder_of(path, builder), files if place else ())


def _class_names(path, schema, label, num_classes):
  # Returns the names that `datasets` has written into the schema, or ().
  library = importlib.import_module('datasets')
  feature = library.Features.from_arrow_schema(schema).get(label)
  names = getattr(feature, 'names', None) or ()
  if names and len(names) != num_classes:
    raise ValueError(f'num_classes must be {len(names)} for {path}, got {num_classes}')
  return names


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
  return open_parquet(path, builder.config.data_files[split], read, buffer, open_file)


@contextlib.contextmanager
def _reading(path):
  # `datasets` raises errors of many libraries, and logs their tracebacks.
  log = logging.getLogger('datasets')
  level = log.level
  log.setLevel(logging.CRITICAL)
  try:
    with naming(f'{path} cannot be read'):
      yield
  finally:
    log.setLevel(level)

"""Parquet files, read row group by row group where they are."""

import collections
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np

from diffusion_jax.data.columns import check_columns
from diffusion_jax.data.sums import digest, of_files
from diffusion_jax.errors import naming

_READERS = 16  # threads
_open = functools.partial(open, mode='rb')


def image_bytes(cell: object) -> object:
  """Returns the bytes of an image cell, {'bytes', 'path'} or bytes.

  A cell that only names a path is returned as it is: a table may come from a
  stranger, whose paths are not opened.
  """
  if not isinstance(cell, dict) or {*cell} != {'bytes', 'path'}:
    return cell
  return cell if cell['bytes'] is None else cell['bytes']


def block_order(rng: np.random.Generator, sizes: np.ndarray, buffer: int) -> np.ndarray:
  """Permutes blocks of `sizes` images, and images among about `buffer` of them.

  Blocks that are read together are neighbours of the permutation. If all images
  fit in the buffer, this is `rng.permutation`.
  """
  if sizes.sum() <= buffer:
    return rng.permutation(sizes.sum())
  first = np.cumsum(sizes) - sizes
  blocks = rng.permutation(len(sizes))
  window = (np.cumsum(sizes[blocks]) - sizes[blocks]) // buffer
  order = []
  for part in np.split(blocks, np.flatnonzero(np.diff(window)) + 1):
    rows = [first[block] + np.arange(int(sizes[block])) for block in part]
    order.append(rng.permutation(np.concatenate(rows)))
  return np.concatenate(order)


@dataclasses.dataclass(eq=False)
class RowGroups:
  """Reads rows of parquet files, and keeps the latest row groups in memory.

  groups: (path, metadata, number in the file) of each; schema: of Arrow;
  needed: the columns that are read; buffer: see `block_order`.
  """

  name: str
  schema: Any
  needed: Sequence[str]
  groups: Sequence[tuple[str, Any, int]]
  buffer: int
  open_file: Callable[[str], IO[bytes]]
  files = ()  # `checksum` has the sum

  def __post_init__(self):
    self.columns = self.schema.names
    rows = [metadata.row_group(i).num_rows for _, metadata, i in self.groups]
    self.sizes = sizes = np.array(rows, int)
    self.order = functools.partial(block_order, sizes=sizes, buffer=self.buffer)
    self._ends = np.cumsum(sizes)
    # The buffers that a batch may come from while the next are read ahead.
    self._room = 2 * (self.buffer + sizes.max(initial=0))
    self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(_READERS)
    self._tables = collections.OrderedDict()

  def __len__(self) -> int:
    return int(self.sizes.sum())

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    numbers = np.searchsorted(self._ends, index, side='right')
    tables = {number: self._table(number) for number in np.unique(numbers)}
    rows = index - (self._ends - self.sizes)[numbers]
    places = list(zip(numbers, rows.tolist(), strict=True))

    def cell(column, number, row):
      with _naming(self.groups[number][0]):
        return image_bytes(tables[number][column][row].as_py())

    return {c: [cell(c, n, row) for n, row in places] for c in columns}

  def checksum(self) -> str:
    """Returns the sum of the files, or of what their server says of them."""
    paths = [*dict.fromkeys(path for path, *_ in self.groups)]
    if all(map(os.path.isfile, paths)):
      return of_files(paths)

    def about(path):
      with _naming(path), self.open_file(path) as file:
        details = getattr(file, 'details', {})  # names of several libraries
        return repr([details.get(x) for x in ('size', 'blob_id', 'etag', 'ETag', 'mtime')])

    return digest(about(path).encode() for path in paths)

  def place(self, i: int) -> str:
    number = int(np.searchsorted(self._ends, i, side='right'))
    path, _, group = self.groups[number]
    row = i - (self._ends - self.sizes)[number]
    return f'{path}, row group {group}, row {row}'

  def _table(self, number):
    # Several threads wait for one reading of a row group.
    with self._lock:
      future = self._tables.pop(number, None)
      if future is None:
        future = self._pool.submit(self._read_group, *self.groups[number])
      self._tables[number] = future
      while sum(self.sizes[list(self._tables)]) > self._room:
        self._tables.popitem(last=False)
    return future.result()

  def _read_group(self, path, metadata, group):
    from pyarrow import parquet

    with _naming(path), self.open_file(path) as file:
      whole = parquet.ParquetFile(file, metadata=metadata)
      table = whole.read_row_group(group, columns=self.needed)
      expected = metadata.row_group(group).num_rows
      if table.num_rows != expected:
        raise OSError(f'{table.num_rows} of {expected} rows are in a row group')
      return table


def open_parquet(
  name: str,
  paths: Sequence[str],
  read: Sequence[str],
  buffer: int,
  open_file: Callable[[str], IO[bytes]] = _open,
) -> RowGroups:
  """Returns the rows of files, whose footers are read now.

  read: the columns that are needed; buffer: images, see `block_order`. Raises
  ValueError for a damaged file and for one without these columns.
  """
  import pyarrow
  from pyarrow import parquet

  def footer(path):
    with _naming(path), open_file(path) as file:
      size, metadata = file.seek(0, 2), parquet.ParquetFile(file).metadata
      groups = map(metadata.row_group, range(metadata.num_row_groups))
      rows = [group.num_rows for group in groups]
      if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise OSError(f'its row groups have {rows} of {metadata.num_rows} rows')
    # Rows of nulls take next to nothing in a file, and gigabytes in memory.
    if metadata.num_rows > size:
      raise ValueError(
        f'{path} has {metadata.num_rows:,} rows in {size:,} bytes: rows of images are larger'
      )
    return metadata

  with ThreadPoolExecutor(_READERS) as pool:
    footers = dict(zip(paths, pool.map(footer, paths), strict=True))
  groups, schema = [], pyarrow.schema([])
  for path, metadata in footers.items():
    schema = metadata.schema.to_arrow_schema()
    check_columns(path, schema.names, read)
    groups += [(path, metadata, i) for i in range(metadata.num_row_groups)]
  return RowGroups(name, schema, read, groups, buffer, open_file)


def _naming(path):
  return naming(f'{path} cannot be read as a parquet file')

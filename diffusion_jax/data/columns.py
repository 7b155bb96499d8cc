"""Images, labels and texts that are columns of a table: tars, parquet.

The images are the bytes of image files, or uint8 [h, w, 1 or 3].
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from diffusion_jax.data.damage import damaged, left_out, problem
from diffusion_jax.data.images import check_picture, decode_image, resized
from diffusion_jax.data.sources import EpochOrder, blocks, check_examples, checksum
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.data.sums import digest, kept
from diffusion_jax.ranges import near


class Columnar(Protocol):
  """Describes examples that are read by index."""

  @property
  def name(self) -> str:
    """What messages call the table, such as a path."""
    ...

  @property
  def columns(self) -> Sequence[str]:
    """Names of the columns."""
    ...

  @property
  def files(self) -> Sequence[str | Path]:
    """The files that decide all cells; () if that is not known."""
    ...

  def __len__(self) -> int: ...

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    """Returns n values of each column; ValueError for a damaged file."""
    ...

  def place(self, i: int) -> str:
    """Returns what messages call example i."""
    ...


class Columns(NamedTuple):
  """Names the columns that are read; '' for none.

  They are images, labels and texts; or x and context, lists of numbers.
  """

  image: str = ''
  label: str = ''
  text: str = ''
  x: str = ''
  context: str = ''

  @property
  def read(self) -> list[str]:
    """The columns that are read."""
    return [name for name in self if name]


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnSource:
  """Reads images of a `Table`, cropped at the centre and resized, or numbers.

  rows: the examples of the split, int [N]; order: see `sources.Source`.
  """

  table: Columnar
  columns: Columns
  rows: np.ndarray
  facts: Facts
  order: EpochOrder | None = None
  in_memory = False

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    image, label, text, x, context = self.columns
    rows = self.rows[index]
    cells = self.table.get(self.columns.read, rows)

    def values(column, convert):
      return self._values(rows, cells[column], column, convert)

    if x:
      columns = {'x': x, 'context': context} if context else {'x': x}
      return {n: np.stack([*values(c, _numbers)]) for n, c in columns.items()}
    arrays = {'x': resized(values(image, _picture), self.facts.x.shape)}
    if label:
      arrays['label'] = np.fromiter(values(label, self._label), np.int32, len(index))
    if text:
      arrays['text'] = np.array([*values(text, _text)])
    return arrays

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of examples."""
    column, rows = self.columns.label, self.rows[index]
    cells = self.table.get([column], rows)[column]
    return np.fromiter(self._values(rows, cells, column, self._label), np.int32, len(index))

  def _values(self, rows, cells, column, convert):
    # Yields the cells of a column, converted; ValueError names the example.
    for i, value in zip(rows, cells, strict=True):
      try:
        yield convert(value, column)
      except ValueError as error:
        raise ValueError(f'{self.table.place(i)}: {error}') from None

  def checksum(self) -> str:
    """Returns the sum of all cells, or the table's own sum."""
    names = self.columns.read

    def cells():
      for index in blocks(len(self)):
        columns = self.table.get(names, self.rows[index])
        for value in (value for name in names for value in columns[name]):
          yield value if isinstance(value, bytes | np.ndarray) else repr(value).encode()

    what = f'{names} {digest([self.rows])}'
    return checksum(self.table) or kept(self.table.files, lambda: digest(cells()), what)

  def _label(self, value, column):
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    last = self.facts.num_classes - 1
    if whole and 0 <= value <= last:
      return value
    raise _misfit(column, f'an integer in 0..{last}', value)


def of_numbers(
  table: Columnar,
  columns: Columns,
  rows: np.ndarray,
  order: EpochOrder | None = None,
) -> ColumnSource:
  """Returns columns of lists of numbers, of equal lengths, as a source.

  Raises ValueError.
  """
  check_columns(table.name, table.columns, columns.read)
  source = ColumnSource(table, columns, rows, Facts(ArraySpec(())), order)
  first = source.read(np.arange(1))
  values = {name: ArraySpec(array.shape[1:]) for name, array in first.items()}
  return dataclasses.replace(source, facts=Facts(values['x'], context=values.get('context')))


def _numbers(value, column):
  try:
    array = np.asarray(value, np.float64)
  except (TypeError, ValueError):
    array = np.array(np.nan)
  if not array.ndim or not np.isfinite(array).all():
    raise _misfit(column, 'a list of numbers', value)
  return array


def _picture(value, column):
  if isinstance(value, np.ndarray):
    return value
  if isinstance(value, bytes):
    return decode_image(value, column)
  raise _misfit(column, 'the bytes of an image file', value)


def _text(value, column):
  value = value.decode(errors='replace') if isinstance(value, bytes) else value
  if isinstance(value, str):
    return value
  raise _misfit(column, 'a string', value)


def _misfit(column, expected, value):
  return ValueError(f'{column} must be {expected}, got {value!r:.60}')


def checked(source: ColumnSource, check: bool = False, skip_damaged: bool = False) -> ColumnSource:
  """Returns the source, whose columns exist and whose first example fits.

  check: all pictures are decoded; skip_damaged: and left out if that fails.
  Raises ValueError.
  """
  table, columns = source.table, source.columns
  check_columns(table.name, table.columns, columns.read, columns.label)
  if not len(source):
    raise ValueError(f'{table.name} has no examples')
  if check or skip_damaged:
    source = _intact(source, skip_damaged)
  check_examples(source.read(np.arange(1)), source.facts)
  return source


def _intact(source, skip):
  table, rows, column = source.table, source.rows, source.columns.image

  def problems(block):
    cells = table.get([column], rows[block])[column]
    return [problem(_check, cell, column) for cell in cells]

  errors = damaged(problems, len(rows), f'checking pictures in {table.name}')
  names = tuple(table.place(rows[i]) for i in errors)
  left_out(errors, len(rows), names, table.name, skip)
  facts = source.facts._replace(skipped=names)
  rows = np.delete(rows, [*errors])
  return dataclasses.replace(source, rows=rows, facts=facts)


def _check(value, column):
  if isinstance(value, bytes):
    check_picture(value, column, True)
  else:
    _picture(value, column)


def check_columns(
  name: str, found: Sequence[str], needed: Sequence[str], label: str = '', hint: str = ''
) -> None:
  """Raises ValueError unless a table has the columns that are needed.

  The message names the column that was meant, or else has the hint.
  """
  for column in needed:
    if column not in found:
      meant, names = near(column, found), ', '.join(f'"{x}"' if ',' in x else x for x in found)
      also = (hint if not meant else '') + ' (num_classes=0 reads no labels)' * (column == label)
      raise ValueError(f'{name} has no column {column!r}{meant}, but {names or "none"}{also}')

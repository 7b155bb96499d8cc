"""Tables: CSV files of examples and of conditions, whose columns have names.

A number of an array is named after its column; a column of texts is one number
for each of its categories, column=category, which is 1 or 0.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.data import buckets
from diffusion_jax.data.columns import check_columns
from diffusion_jax.data.files import say_once
from diffusion_jax.data.images import existing
from diffusion_jax.data.npz import box_of, read_array
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.ranges import Finite, Rate, near

MOST_CATEGORIES = 200  # of a column
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.ASCII | re.IGNORECASE)
_WITH_COMMA = re.compile(r'[+-]?[\d.]*,\d+', re.ASCII)


class Cells(NamedTuple):
  """The cells of a CSV file, as texts without spaces around them.

  columns: of each name that is not empty, [N]; rows: their numbers in a
  spreadsheet, where the header is row 1.
  """

  path: Path | str
  columns: dict[str, Sequence[str]]
  rows: list[int]


def csv_table(
  path: str | Path,
  x: tuple[str, ...],
  split: str = 'train',
  context: tuple[str, ...] = (),
  categories: tuple[str, ...] = (),
  label: str = '',
  test_path: str = '',
  test_fraction: Rate = 0.0,
  bounds: tuple[Finite, ...] = (),
  cache: str = '',
) -> ArraySource:
  """Reads columns of numbers x, [N, D], of a CSV file with a header.

  context: the columns that x is given; 'rest' is all others. Columns without
  numbers, and those in `categories`, are read as categories, in sorted order.
  label: the column of classes. The test split is test_path, or else a fixed
  random test_fraction, which 'train' does not contain. bounds, cache: as in
  `npz`. Raises ValueError that names row and column, or FileNotFoundError.
  """
  check_split(split)
  if not x:
    raise ValueError(f'x is empty: name columns of {path}')
  cells = read_cells(buckets.local(str(path), cache))
  if tuple(context) == ('rest',) and 'rest' not in cells.columns:
    context = tuple(name for name in cells.columns if name not in (*x, label))
    if not context:
      raise ValueError(f'context=rest: {path} has no columns but those of x and label')
  labels = (label,) if label else ()
  _check_choice(cells, (*x, *context, *labels), {*categories} - {*context})
  names = {
    'x': x,
    'context': [n for column in context for n in _names(cells, column, column in categories)],
    'label': [n for column in labels for n in _names(cells, column, True)],
  }
  if test_path and split == 'test':
    cells = read_cells(buckets.local(test_path, cache))
  size = len(cells.rows)
  index = np.arange(size) if test_path else random_part(size, split, test_fraction, path)
  arrays = {what: numbers(cells, every)[index] for what, every in names.items() if every}
  classes = tuple(_columns(names['label']).get(label, ()))
  low, high = box_of(bounds, len(x))
  return ArraySource(
    arrays['x'],
    arrays['label'].argmax(axis=1).astype(np.int32) if label else None,
    len(classes),
    context=arrays.get('context'),
    low=low,
    high=high,
    class_names=classes,
    x_names=tuple(x),
    context_names=tuple(names['context']),
  )


def read_cells(path: str | Path) -> Cells:
  """Reads a CSV file in UTF-8 with a header.

  Its delimiter is the most frequent in the header: comma, semicolon or tab.
  Blank lines and columns without a name are left out. Raises ValueError or
  FileNotFoundError in one line.
  """
  path, lines = existing(path, 'CSV file', Path.is_file), []
  try:
    text = path.read_text('utf-8-sig')
    unquoted = re.sub('"[^"]*"', '', text.lstrip('\n').partition('\n')[0])
    delimiter = max(',;\t', key=unquoted.count)
    how = {'delimiter': delimiter, 'skipinitialspace': True, 'strict': True}
    for line in csv.reader(io.StringIO(text), **how):
      lines.append([cell.strip() for cell in line])
  except UnicodeDecodeError as error:
    place = f'byte {error.start + 1:,}'
    raise ValueError(f'{path} is not text in UTF-8 ({place}): save it as CSV in UTF-8') from None
  except csv.Error as error:
    raise ValueError(f'{path}, row {len(lines) + 1}: {error}') from None
  rows = [i for i, line in enumerate(lines, 1) if any(line) or len(line) > 1]
  if len(rows) < 2:
    raise ValueError(f'{path} needs a header with the names of its columns, and rows below it')
  header, *texts = (lines[i - 1] for i in rows)
  for i, line in zip(rows[1:], texts, strict=True):
    if len(line) != len(header):
      raise ValueError(
        f'{path}, row {i} has {len(line)} cells, and the header {len(header)}: a cell with '
        f'{delimiter!r} in it must be in quotes'
      )
  for name in header:
    if name and header.count(name) > 1:
      raise ValueError(f'{path} has several columns {name!r}: rename them')
  columns = zip(header, zip(*texts, strict=True), strict=True)
  return Cells(path, {name: cells for name, cells in columns if name}, rows[1:])


def _check_choice(cells, names, others):
  # others: the columns of categories that are not of context.
  check_columns(str(cells.path), [*cells.columns], names)
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'column {name!r} is named twice in x, context and label')
    if '=' in name:
      raise ValueError(f"{cells.path}: rename column {name!r} without '='")
  if others:
    raise ValueError(f'categories={min(others)} is not a column of context')


def _names(cells, column, is_category):
  # Returns the names of the numbers of a column of context or label.
  texts = cells.columns[column]
  if not is_category and any(_NUMBER.fullmatch(x) or _WITH_COMMA.fullmatch(x) for x in texts):
    return [column]
  categories = {*texts} - {''}
  if not 1 < len(categories) <= MOST_CATEGORIES:
    raise ValueError(
      f'{cells.path}: column {column!r} has {len(categories):,} different texts, and 2 to '
      f'{MOST_CATEGORIES:,} can be categories: leave it out'
    )
  say_once(f'{cells.path}: column {column!r} has {len(categories)} categories')
  numeric = {x: float(x) if _NUMBER.fullmatch(x) else np.inf for x in categories}
  return [f'{column}={x}' for x in sorted(categories, key=lambda x: (numeric[x], x))]


def _columns(names):
  # Returns {column: its categories, or [] of a column of numbers}.
  columns = {}
  for name in names:
    column, is_category, text = name.partition('=')
    columns.setdefault(column, []).extend([text] if is_category else [])
  return columns


def numbers(cells: Cells, names: Sequence[str], blank: bool = False) -> np.ndarray:
  """Returns the numbers with these names, float64 [N, D].

  blank: an empty cell is NaN. Raises ValueError that names row and column of
  another cell.
  """
  arrays, columns = [], _columns(names)
  check_columns(str(cells.path), [*cells.columns], [*columns])
  for column, categories in columns.items():
    texts = cells.columns[column]
    if categories:
      place = {text: i for i, text in enumerate(categories)}
      index = np.array([place.get(text, -1) for text in texts])
      arrays.append(np.eye(len(categories))[index])
      misfits = index < 0
    else:
      values = np.array([float(x) if _NUMBER.fullmatch(x) else np.nan for x in texts])
      arrays.append(values[:, None])
      misfits = ~np.isfinite(values) & np.array([bool(x) or not blank for x in texts])
    for i in np.flatnonzero(misfits)[:1]:
      where = f'{cells.path}, row {cells.rows[i]}, column {column!r}'
      raise ValueError(f'{where}: {_problem(texts[i], categories)}')
  return np.concatenate(arrays, axis=1)


def _problem(text, categories):
  if not text:
    return 'the value is missing: fill it in, or leave the row out'
  if categories:
    some = ', '.join(categories[:10]) + ', …' * (len(categories) > 10)
    return f'{text!r}{near(text, categories)} is not one of its categories {some}'
  if _WITH_COMMA.fullmatch(text):
    return f'{text!r} is not a number: write a decimal point, and no mark between thousands'
  return f'{text!r} is not a number: correct it; a column of texts can be context or label'


def is_csv(path: str | Path, values: ArraySpec) -> bool:
  """Returns whether a file should have columns with the names of the values."""
  return bool(values.names) and Path(path).suffix.lower() not in ('.npy', '.npz')


def read_rows(path: str | Path, values: ArraySpec, blank: bool = False) -> np.ndarray:
  """Returns rows of values from a CSV file, or `context` of a .npy or npz file.

  Columns may be in any order, and others are left out. blank: an empty cell is
  NaN. Raises ValueError or FileNotFoundError.
  """
  if is_csv(path, values):
    return numbers(read_cells(path), values.names, blank)
  return read_array(path, 'context')


def rows_of(values: Any, spec: ArraySpec, what: str, blank: bool = False) -> np.ndarray:
  """Returns what a user gives as rows of arrays, float64 [K, *spec.shape].

  values: one array or several, or a dict, data frame or structured array with
  the columns of spec.names, whose cells are read as those of a CSV file; one
  cell is for all rows. blank: None and NaN are NaN. Raises ValueError.
  """
  names = getattr(getattr(values, 'dtype', None), 'names', None)
  names = names or [*getattr(values, 'keys', list)()]
  if spec.names and names and all(isinstance(name, str) for name in names):
    cells: dict[str, Any] = {
      n: [*map(_text, np.ravel(np.asarray(values[n], object)))] for n in names
    }
    size = max(map(len, cells.values()))
    cells = {n: x * size if len(x) == 1 else x for n, x in cells.items()}
    if {*map(len, cells.values())} != {size or 1}:
      raise ValueError(f'{what} needs columns of one length, of a row or more')
    return numbers(Cells(what, cells, [*range(size)]), spec.names, blank)
  also = f', or a table with the columns {", ".join(_columns(spec.names))}' * bool(spec.names)
  try:
    array = np.asarray(values, np.float64)
  except (TypeError, ValueError):
    raise ValueError(f'{what}={values!r:.60} is not an array of numbers{also}') from None
  rows = array[None] if array.shape == (*spec.shape,) else array
  if rows.shape[1:] != (*spec.shape,) or not len(rows):
    shape = ', '.join(map(str, spec.shape))
    needed = f'[{shape}] or [K, {shape}] is needed{also}'
    raise ValueError(f'{what} has the shape {[*array.shape]}, and {needed}')
  return rows


def _text(value):
  # Returns what a CSV file has for a cell in memory.
  text = str(value).strip()
  return '' if text in ('None', 'nan', 'NaT', '<NA>') else text


def texts_of(names: Iterable[str], x: np.ndarray) -> dict[str, list[str]]:
  """Returns the columns of a table of numbers x [N, D] with these names."""
  columns, start = {}, 0
  for column, categories in _columns(names).items():
    part = x[:, start : start + max(1, len(categories))]
    start += part.shape[1]
    if categories:
      columns[column] = [categories[i] for i in part.argmax(axis=1)]
    else:
      columns[column] = part[:, 0].astype(str).tolist()
  return columns


def as_csv(columns: Mapping[str, Iterable[object]]) -> str:
  """Returns the columns as a CSV file has them, below their names."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(columns)
  writer.writerows(zip(*columns.values(), strict=True))
  return file.getvalue()

"""Tables of numbers and categories, whose cells may be missing.

The kind of a column is told from its cells, or named. A row is one number for each column: its
number, the days from 1970 to its date, the seconds or minutes to its time, or the number of its
category; NaN if it is missing.
"""

import collections
import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from diffusion_jax.data import buckets, customers, notations
from diffusion_jax.data.cells import (
  HEADER,
  MISSING,
  Held,
  RowsOfFile,
  open_rows,
  single_line,
  unnamed,
)
from diffusion_jax.data.column_kinds import ColumnCells, category_key
from diffusion_jax.data.columns import check_columns
from diffusion_jax.data.notations import days
from diffusion_jax.data.set_files import say_left_out, say_once
from diffusion_jax.data.spec import PRESENT, ArraySpec, Facts
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.data.sums import digest, of_array
from diffusion_jax.declared import declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Rate, near

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_PRESENCE = ('missing', 'present')
MOST_WIDTH = 40  # of the names of columns in what is printed


@dataclasses.dataclass(frozen=True, eq=False)
class TableSource:
  """Holds rows of a table in memory, x float64 [N, C], NaN where a cell is missing."""

  x: np.ndarray
  spec: ArraySpec
  in_memory = True

  @property
  def facts(self) -> Facts:
    """What the columns are."""
    return Facts(self.spec)

  def __len__(self) -> int:
    return len(self.x)

  def read(self, index: np.ndarray | slice) -> dict[str, np.ndarray]:
    return {'x': self.x[index]}

  def checksum(self) -> str:
    """Returns the sum of the rows and of their categories' names."""
    return digest([of_array(self.x).encode(), repr(self.spec.categories).encode()])


@declares(
  what='a [table](tables.md) of numbers, dates and categories, whose cells may be missing',
  needs='nothing: customers that are drawn; or `data.path`',
)
def table(
  path: ReadPath | Path = '',
  split: str = 'train',
  x: tuple[str, ...] = (),
  categories: tuple[str, ...] = (),
  missing: Literal['drawn', 'unknown'] = 'drawn',
  header: bool | None = None,
  test_path: ReadPath = '',
  test_fraction: Rate = 0.1,
) -> TableSource:
  """Reads the rows of a CSV file, with a number for each cell.

  path: of the file; '': customers that are drawn, of a known law. x: its columns; () for all.
  categories: columns of numbers that are read as categories, such as codes. missing: a category
  for each column that has empty cells says whether a cell is there, so that samples have as many;
  with 'unknown' such a cell is not known, and a model draws every cell. header: whether
  the first row names the columns; None: as it seems. The test split is test_path, or else a
  fixed random test_fraction. Raises ValueError that names row and column, or FileNotFoundError.
  """
  check_split(split)
  if not path and test_path:
    raise ValueError(f'test_path={test_path} needs a path')
  rows = open_rows(buckets.local(str(path)), header) if path else customers.rows()
  spec, gaps, size = told(rows, tuple(map(single_line, x)), tuple(map(single_line, categories)))
  if missing == 'drawn':
    spec = with_presence(spec, [name for name, missing in gaps.items() if missing])
  if test_path and split == 'test':
    rows = open_rows(buckets.local(test_path), rows.first > 1)
    size = size_of(rows)
  values = numbers(rows, spec, size)
  if not test_path:
    values = values[random_part(len(values), split, test_fraction, path or 'customers')]
  return TableSource(values, spec)


def told(
  rows: RowsOfFile | Held, x: Sequence[str] = (), categories: Sequence[str] = ()
) -> tuple[ArraySpec, dict[str, int], int]:
  """Returns the columns of a table, how many cells of each are missing, and the number of rows.

  x: the columns; () for all that can be drawn: of the others a line is said, and ValueError
  raised if they are named. A table of the columns is printed once. Arguments: see `table`.
  """
  check_columns(str(rows.path), rows.names, (*x, *categories))
  if others := {*categories} - {*(x or rows.names)}:
    raise ValueError(f'categories={min(others)}{near(min(others), x)} is not a column of x')
  unnamed = sum(not name for name in rows.names)
  say_left_out(rows.path, unnamed, len(rows.names), 'columns', why='they have no name')
  names = x or tuple(filter(None, rows.names))
  if not names:
    raise ValueError(f'{rows.path}: no column has a name: {HEADER}')
  columns = {name: ColumnCells() for name in names}
  size = 0
  for numbers_of_rows, cells in rows.blocks():
    size += len(numbers_of_rows)
    for name, texts in zip(rows.names, cells, strict=True):
      if name in columns:
        columns[name].add(texts)
  found, problems = {}, {}
  for name, cells in columns.items():
    try:
      found[name] = cells.kind(size, name in categories)
    except ValueError as error:
      problems[name] = error
  if problems and (x or not found):
    name = next(iter(problems))
    raise ValueError(f'{rows.path}: column {name!r} {problems[name]}')
  for name, problem in problems.items():
    say_left_out(
      rows.path, 1, len(names), 'columns', [name], f'it {problem}', f'{rows.path} {name}'
    )
  spec = ArraySpec(
    (len(found),),
    names=(*found,),
    kinds=tuple(kind.kind for kind in found.values()),
    categories=tuple(kind.categories for kind in found.values()),
    decimals=tuple(kind.decimals for kind in found.values()),
    notations=tuple(kind.notation for kind in found.values()),
  )
  say_once(_words(rows, size, spec, columns, found))
  return spec, {name: columns[name].missing for name in found}, size


def size_of(rows: RowsOfFile | Held) -> int:
  """Returns the number of rows."""
  return sum(len(numbers_of_rows) for numbers_of_rows, _ in rows.blocks())


def with_presence(spec: ArraySpec, names: Iterable[str]) -> ArraySpec:
  """Adds a category for each of the columns, which says whether its cell is there."""
  added = [name + PRESENT for name in names]
  if taken := {*added} & {*spec.names}:
    raise ValueError(f'missing=drawn adds a column {min(taken)!r}, which the table has: rename it')
  return spec._replace(
    shape=(len(spec.names) + len(added),),
    names=(*spec.names, *added),
    kinds=(*spec.kinds, *['presence'] * len(added)),
    categories=(*spec.categories, *[_PRESENCE] * len(added)),
    decimals=(*spec.decimals, *[()] * len(added)),
    notations=(*spec.notations, *[''] * len(added)),
  )


def _words(rows, size, spec, columns, found):
  # Returns the table of the kinds of columns.
  head = f'{rows.path}: {size:,} rows of {len(spec.names)} columns'
  head += '' if rows.first > 1 else ', without a header'
  lines = []
  for name, kind in found.items():
    texts = kind.categories
    if texts:
      shown = f'category, {len(texts):,}: {", ".join(texts[:5])}' + ', …' * (len(texts) > 5)
    elif kind.kind != 'number':
      shown = kind.kind
    else:
      what = 'whole number' if not kind.decimals[1] else f'number, {kind.decimals[1]} decimals'
      shown = f'{what}, {kind.low:g} to {kind.high:g}'
    shown += f', written as {kind.notation}' * bool(kind.notation)
    cells = columns[name]
    lines.append((name, shown + f'; {cells.missing / size:.1%} missing' * bool(cells.missing)))
  width = min(MOST_WIDTH, max(len(name) for name, _ in lines))
  return '\n'.join([head, *(f'  {name:{width}}  {shown}' for name, shown in lines)])


def _reader(spec: ArraySpec, i: int) -> Callable[[str], float]:
  # Returns text -> the number of a cell of column i; KeyError or ValueError for a misfit.
  kind, notation = spec.kinds[i], spec.notations[i]
  if kind == 'category':
    place = {category_key(text): j for j, text in enumerate(spec.categories[i])}
    return lambda text: place[category_key(text)]

  def number(text):
    if kind == 'time':
      time = notations.time(text)
      value = time[1] if time and time[0] == notation else None
    else:
      value = days(text) if kind == 'date' else notations.number(text, notation)
    if value is None or not np.isfinite(value):
      raise ValueError(text)
    return value

  return number


def numbers(rows: RowsOfFile | Held, spec: ArraySpec, size: int) -> np.ndarray:
  """Returns the rows of a table as numbers, float64 [size, C].

  A category that the columns do not have is there and not known, and a line says how many. Raises
  ValueError that names row and column.
  """
  presence = _presence_of(spec)
  own = [i for i in range(len(spec.names)) if i not in presence.values()]
  check_columns(str(rows.path), rows.names, [spec.names[i] for i in own])
  x, start = np.full((size, len(spec.names)), np.nan), 0
  unknown: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for numbers_of_rows, cells in rows.blocks():
    end = start + len(numbers_of_rows)
    for i in own:
      texts = cells[rows.names.index(spec.names[i])]
      x[start:end, i] = _column(texts, spec, i, rows.path, numbers_of_rows, unknown)
      if i in presence:
        x[start:end, presence[i]] = [text not in MISSING for text in texts]
    start = end
  for name, texts in unknown.items():
    text = next(iter(texts))
    say_once(
      f'{rows.path}: {texts.total():,} cells of column {name!r} are not known, such as {text!r}, '
      'which is no category of the training'
    )
  return x


def of_columns(path: str | Path, spec: ArraySpec) -> TableSource:
  """Returns the rows of a CSV file with the columns of a table that is known.

  The file may lack a header where the table has none, whose columns are column1, column2, ...
  """
  own = len(spec.names) - len(_presence_of(spec))
  without = spec.names[:own] == unnamed(own)
  file = buckets.local(str(path))
  rows = open_rows(file, header=None if without else True)
  return TableSource(numbers(rows, spec, size_of(rows)), spec)


def _presence_of(spec):
  # Returns {column: the column that says whether its cells are there}.
  return {
    spec.names.index(spec.names[i].removesuffix(PRESENT)): i
    for i, kind in enumerate(spec.kinds)
    if kind == 'presence'
  }


def _column(texts, spec, i, path, places, unknown=None):
  # Returns the numbers of cells; unknown: counts of the categories that are taken as missing.
  read, values, name = _reader(spec, i), {}, spec.names[i]
  for text, count in collections.Counter(texts).items():
    try:
      values[text] = np.nan if text in MISSING else read(text)
    except (KeyError, ValueError):
      if unknown is not None and spec.kinds[i] == 'category':
        unknown[name][text] += count
        values[text] = np.nan
        continue
      row, categories = places[texts.index(text)], spec.categories[i]
      notation = spec.notations[i]
      what = {
        'date': 'a date such as 2026-11-30',
        'number': 'a number' + f' such as {notation}' * bool(notation),
        'time': f'a time such as {notation}',
      }.get(spec.kinds[i], f'one of its categories, {", ".join(categories[:10])}')
      raise ValueError(
        f'{path}, row {row}, column {name!r}: {text!r}{near(text, categories)} is not {what}'
      ) from None
  return np.fromiter((values[text] for text in texts), np.float64, len(texts))


def known_cells(
  what: str, columns: Mapping[str, Sequence[str]], places: Sequence[int], spec: ArraySpec
) -> np.ndarray:
  """Returns rows of which some cells are given, float64 [K, C]; NaN where one is drawn.

  columns: the texts of the cells, '' of one that is drawn; a column that is left out is drawn.
  Raises ValueError that names row and column.
  """
  own = [name for name, kind in zip(spec.names, spec.kinds, strict=True) if kind != 'presence']
  check_columns(what, own, [*filter(None, columns)])
  x = np.full((len(places), len(spec.names)), np.nan)
  for name, texts in columns.items():
    if name:
      i = spec.names.index(name)
      x[:, i] = _column(texts, spec, i, what, places)
  for i, presence in _presence_of(spec).items():  # A cell that is given is there.
    x[:, presence] = np.where(np.isfinite(x[:, i]), 1.0, np.nan)
  return x


def texts_of_given(values: object) -> tuple[dict[str, list[str]], range] | None:
  """Returns the cells of a dict, data frame or structured array, and their rows, or None."""
  names = getattr(getattr(values, 'dtype', None), 'names', None)
  names = names or [*getattr(values, 'keys', list)()]
  if not names:
    return None
  columns = {}
  for name in names:
    cells = np.ravel(np.asarray(values[name], object)).tolist()  # pyright: ignore
    columns[str(name)] = ['' if x is None or x != x else str(x).strip() for x in cells]
  size = max(map(len, columns.values()))
  columns = {n: x * size if len(x) == 1 else x for n, x in columns.items()}
  if {*map(len, columns.values())} != {size}:
    raise ValueError('the columns of given cells have different lengths')
  return columns, range(size)


def read_known(path: str | Path, spec: ArraySpec) -> np.ndarray:
  """Returns `known_cells` of the rows of a CSV file."""
  rows = open_rows(path, header=True)
  columns: dict[str, list[str]] = {name: [] for name in rows.names}
  places: list[int] = []
  for numbers_of_rows, cells in rows.blocks():
    places += numbers_of_rows
    for name, texts in zip(rows.names, cells, strict=True):
      columns[name] += texts
  return known_cells(str(path), columns, places, spec)


def texts_of(spec: ArraySpec, x: np.ndarray) -> dict[str, list[str]]:
  """Returns the columns of rows x [N, C] as a CSV file has them, '' in empty cells."""
  columns = {}
  for i, (name, kind) in enumerate(zip(spec.names, spec.kinds, strict=True)):
    values = x[:, i].tolist()
    notation, places = spec.notations[i], spec.decimals[i]
    if kind == 'number':
      columns[name] = [notations.written(v, places[0], places[1], notation) for v in values]
    elif kind == 'time':
      columns[name] = [notations.written_time(v, places[1], notation) for v in values]
    elif kind == 'date':
      dates = (datetime.date.fromordinal(_EPOCH + int(v)) if v == v else '' for v in values)
      columns[name] = [str(date) for date in dates]
    elif kind == 'category':
      columns[name] = ['' if v != v else spec.categories[i][int(v)] for v in values]
  return columns

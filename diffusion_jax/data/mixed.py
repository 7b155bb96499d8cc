"""Tables of numbers and categories, whose cells may be missing.

The kind of a column is told from its cells, or named. A row is one number for each column: its
number, the days from 1970 to its date, or the number of its category; NaN if it is missing.
"""

import collections
import dataclasses
import datetime
import decimal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from diffusion_jax.data import buckets, customers
from diffusion_jax.data.cells import NUMBER, Held, RowsOfFile, open_rows, single_line
from diffusion_jax.data.columns import check_columns
from diffusion_jax.data.set_files import say_left_out, say_once
from diffusion_jax.data.spec import PRESENT, ArraySpec, Facts
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.data.sums import digest, of_array
from diffusion_jax.data.tables import MISSING
from diffusion_jax.declared import declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Rate, near

MOST_CATEGORIES = 5000  # of a column
FEW = 20  # different texts that any column may have, or one for two rows
MOST_DECIMALS = 12
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_PRESENCE = ('missing', 'present')


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
  missing: Literal['unknown', 'drawn'] = 'unknown',
  header: bool | None = None,
  test_path: ReadPath = '',
  test_fraction: Rate = 0.1,
) -> TableSource:
  """Reads the rows of a CSV file, with a number for each cell.

  path: of the file; '': customers that are drawn, of a known law. x: its columns; () for all.
  categories: columns of numbers that are read as categories, such as codes. missing: an empty
  cell is not known, and a model draws every cell; with 'drawn' a category for each column that
  has empty cells says whether a cell is there, so that samples have as many. header: whether
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
  columns = {name: _Cells() for name in names}
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
    kinds=tuple(kind for kind, _, _ in found.values()),
    categories=tuple(texts for _, texts, _ in found.values()),
    decimals=tuple(decimals for _, _, decimals in found.values()),
  )
  say_once(_words(rows, size, spec, columns))
  return spec, {name: columns[name].missing for name in found}, size


def size_of(rows: RowsOfFile | Held) -> int:
  """Returns the number of rows."""
  return sum(len(numbers_of_rows) for numbers_of_rows, _ in rows.blocks())


class _Cells:
  # What is known of the cells of a column, of any length, in little memory.

  def __init__(self):
    self.texts: dict[str, None] | None = {}  # Different ones; None if they are too many.
    self.count = self.missing = self.numbers = self.dates = 0
    self.codes = False  # Whether a number begins with a 0 that a number would lose.
    self.decimals = [MOST_DECIMALS, 0]
    self.low, self.high = np.inf, -np.inf
    self.other = ''  # the first text among numbers

  def add(self, texts):
    for text, count in collections.Counter(texts).items():
      if text in MISSING:
        self.missing += count
        continue
      self.count += count
      if self.texts is not None:
        self.texts[text] = None
        if len(self.texts) > 10 * MOST_CATEGORIES:
          self.texts = None
      if NUMBER.fullmatch(text):
        self.numbers += count
        digits = text.lstrip('+-')
        self.codes |= len(digits) > 1 and digits[0] == '0' and digits[1].isdigit()
        places = min(MOST_DECIMALS, _decimals(text))
        self.decimals = [min(self.decimals[0], places), max(self.decimals[1], places)]
        self.low, self.high = min(self.low, float(text)), max(self.high, float(text))
      elif _days(text) is not None:
        self.dates += count
      elif not self.other:
        self.other = text

  def kind(self, size, is_category):
    # Returns (kind, categories, decimals); ValueError for a column without a kind.
    different = {} if self.texts is None else {_key(text): text for text in self.texts}
    if not self.count:
      raise ValueError('has no value: leave it out')
    if self.numbers == self.count and not np.isfinite([self.low, self.high]).all():
      raise ValueError('has a number that is too large: correct it')
    few = self.texts is not None and len(different) <= 2
    if not is_category and not few and not (self.codes and self.numbers == self.count):
      if self.numbers == self.count:
        return 'number', (), tuple(self.decimals)
      if self.dates == self.count:
        return 'date', (), (0, 0)
      if self.numbers > 0.5 * self.count:
        raise ValueError(
          f'has {self.numbers:,} numbers, and the text {self.other!r}: correct it, empty the cell, '
          'or name the column in data.categories'
        )
    most = min(MOST_CATEGORIES, max(FEW, size // 2))
    if self.texts is None or len(different) > most:
      count = f'more than {10 * MOST_CATEGORIES:,}' if self.texts is None else f'{len(different):,}'
      raise ValueError(
        f'has {count} different texts in {size:,} rows, and {most:,} can be categories: write '
        'dates as 2026-11-30, or leave it out of data.x, as names and numbers of rows'
      )
    order = sorted(different, key=lambda key: (isinstance(key, str), key))
    return 'category', tuple(different[key] for key in order), ()


def _decimals(text):
  # Returns how many decimals a number has, also 1e-3.
  if 'e' in text or 'E' in text:
    return max(0, -int(decimal.Decimal(text).as_tuple().exponent))
  return len(text.partition('.')[2])


def _key(text):
  # What spellings of a category have in common: 1 and 1.0, but not 1 and 01.
  if NUMBER.fullmatch(text) and not (text[:1] == '0' and text[1:2].isdigit()):
    return decimal.Decimal(text)
  return text


def _days(text):
  # Returns the days from 1970 to a date, None for another text.
  if len(text) != 10 or text[4] != '-':
    return None
  try:
    return datetime.date.fromisoformat(text).toordinal() - _EPOCH
  except ValueError:
    return None


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
  )


def _words(rows, size, spec, columns):
  # Returns the table of the kinds of columns.
  head = f'{rows.path}: {size:,} rows of {len(spec.names)} columns'
  head += '' if rows.first > 1 else ', without a header'
  lines = []
  for name, kind, texts, places in zip(
    spec.names, spec.kinds, spec.categories, spec.decimals, strict=True
  ):
    cells = columns[name]
    if texts:
      shown = f'category, {len(texts):,}: {", ".join(texts[:5])}' + ', …' * (len(texts) > 5)
    elif kind == 'date':
      shown = 'date'
    else:
      what = 'whole number' if not places[1] else f'number, {places[1]} decimals'
      shown = f'{what}, {cells.low:g} to {cells.high:g}'
    gaps = f'; {cells.missing / size:.1%} missing' * bool(cells.missing)
    lines.append((name, shown + gaps))
  width = max(len(name) for name, _ in lines)
  return '\n'.join([head, *(f'  {name:{width}}  {shown}' for name, shown in lines)])


def _reader(spec: ArraySpec, i: int) -> Callable[[str], float]:
  # Returns text -> the number of a cell of column i; KeyError or ValueError for a misfit.
  if spec.kinds[i] == 'category':
    place = {_key(text): j for j, text in enumerate(spec.categories[i])}
    return lambda text: place[_key(text)]

  def number(text):
    is_date = spec.kinds[i] == 'date'
    value = _days(text) if is_date else float(text) if NUMBER.fullmatch(text) else None
    if value is None or not np.isfinite(value):
      raise ValueError(text)
    return value

  return number


def numbers(rows: RowsOfFile | Held, spec: ArraySpec, size: int) -> np.ndarray:
  """Returns the rows of a table as numbers, float64 [size, C].

  A category that the columns do not have is not known, and a line says how many. Raises ValueError
  that names row and column.
  """
  own = [i for i, kind in enumerate(spec.kinds) if kind != 'presence']
  check_columns(str(rows.path), rows.names, [spec.names[i] for i in own])
  x, start = np.full((size, len(spec.names)), np.nan), 0
  unknown: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for numbers_of_rows, cells in rows.blocks():
    end = start + len(numbers_of_rows)
    for i in own:
      texts = cells[rows.names.index(spec.names[i])]
      x[start:end, i] = _column(texts, spec, i, rows.path, numbers_of_rows, unknown)
    start = end
  for name, texts in unknown.items():
    text = next(iter(texts))
    say_once(
      f'{rows.path}: {texts.total():,} cells of column {name!r} are not known, such as {text!r}, '
      'which is no category of the training'
    )
  return _with_presences(x, spec)


def of_columns(path: str | Path, spec: ArraySpec) -> TableSource:
  """Returns the rows of a CSV file with the columns of a table that is known."""
  rows = open_rows(buckets.local(str(path)), header=True)
  return TableSource(numbers(rows, spec, size_of(rows)), spec)


def _with_presences(x, spec):
  for i, kind in enumerate(spec.kinds):
    if kind == 'presence':
      x[:, i] = np.isfinite(x[:, spec.names.index(spec.names[i].removesuffix(PRESENT))])
  return x


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
      what = {'date': 'a date such as 2026-11-30', 'number': 'a number'}.get(
        spec.kinds[i], f'one of its categories, {", ".join(categories[:10])}'
      )
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
  present = np.isfinite(x)
  for i, kind in enumerate(spec.kinds):
    if kind == 'presence':  # A cell that is given is there; of the others it is drawn.
      given = present[:, spec.names.index(spec.names[i].removesuffix(PRESENT))]
      x[:, i] = np.where(given, 1.0, np.nan)
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
    if kind == 'number':
      columns[name] = [_text(value, *spec.decimals[i]) for value in values]
    elif kind == 'date':
      dates = (datetime.date.fromordinal(_EPOCH + int(v)) if v == v else '' for v in values)
      columns[name] = [str(date) for date in dates]
    elif kind == 'category':
      columns[name] = ['' if v != v else spec.categories[i][int(v)] for v in values]
  return columns


def _text(value, least, most):
  # Returns a number with a least and a most number of decimals; '' for NaN.
  if value != value:
    return ''
  text = f'{value:.{most}f}'
  whole, point, digits = text.partition('.')
  digits = digits.rstrip('0')
  text = f'{whole}{point}{digits:0<{least}}' if digits or least else whole
  return text.removeprefix('-') if not float(text) else text

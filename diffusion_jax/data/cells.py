"""Cells of CSV files as people have them, and what is said of other files."""

import collections
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.data.notations import NUMBER, readings
from diffusion_jax.data.set_files import check_text, say_left_out, say_once
from diffusion_jax.paths import existing

# Texts of a missing value: pandas', and some that others write.
MISSING = (
  '|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan'
  '|null|na|NaT|?|-|--|.'
).split('|')
# Texts that are no tables: patterns of their first bytes, and what they are.
_KINDS = r"""<(!DOCTYPE|!doctype|html) a page of HTML: download the table itself
\[?{\s*" JSON: write it as CSV"""
# What `safe` has marked.
_MARKED = re.compile(r"\A'(?=[=@+-])")
HEADER = 'the first row must name the columns: delete a title or a comment, or write names above'


class Cells(NamedTuple):
  """The cells of a CSV file, as texts without spaces around them.

  columns: of each name that is not empty, [N]; rows: their numbers in a
  spreadsheet, where the header is row 1; delimiter: ' ' for blanks.
  """

  path: Path | str
  columns: dict[str, Sequence[str]]
  rows: list[int]
  delimiter: str = ','


def read_cells(path: str | Path) -> Cells:
  """Reads a CSV file in UTF-8 with a header.

  Commas, semicolons, tabs, bars or blanks separate its cells: what divides most
  rows into equally many. Blank lines and columns without a name are left out; a
  name over several lines has blanks. Raises ValueError or FileNotFoundError in
  one line.
  """
  path, lines = existing(path, 'CSV file', Path.is_file), []
  text = _text(path)
  delimiter = _delimiter(text)
  try:
    for line in _lines(text, delimiter, strict=True):
      cells = (cell.strip().translate({9: ' ', 10: ' '}) for cell in line)
      lines.append([_MARKED.sub('', cell, count=1) for cell in cells])
  except csv.Error as error:
    raise ValueError(f'{path}, row {len(lines) + 1}: {error}') from None
  rows = [i for i, line in enumerate(lines, 1) if line]
  if len(rows) < 2:
    raise ValueError(f'{path} needs a header with the names of its columns, and rows below it')
  header, *texts = (lines[i - 1] for i in rows)
  header = [*map(single_line, header)]
  if all(len(line) == len(header) + 1 and not line[-1] for line in texts):
    header.append('')  # each row ends with a delimiter
  for i, line in zip(rows[1:], texts, strict=True):
    if len(line) != len(header):
      quotes = f'a cell with {delimiter!r} in it must be in quotes, and decimals need a point'
      hints = (
        (header[0][:1] == '#', 'its first row is a comment: delete it'),
        (len(header) == 1, f'delete the first row if it is a title; {quotes}'),
        (
          len(line) == len(header) + 1,
          f'{quotes}; if R wrote names of rows, name their column, or write row.names=FALSE there',
        ),
        (len(line) < len(header), f'{quotes}; delete a row that is a title, a comment or a footer'),
        (True, quotes),
      )
      hint = next(text for holds, text in hints if holds)
      raise ValueError(
        f'{path}, row {i} has {len(line)} cells, and the header {len(header)}: {hint}'
      )
  for name, count in collections.Counter(filter(None, header)).items():
    if count > 1:
      raise ValueError(f'{path} has several columns {name!r}: rename them; {HEADER}')
  columns = [*zip(header, zip(*texts, strict=True), strict=True)]
  unnamed = sum(not name and any(cells) for name, cells in columns)
  say_left_out(path, unnamed, len(columns), 'columns', why='they have no name')
  if delimiter == ',' and _may_be_one_column(text):
    line = (
      "the comma divides its cells: if it is the decimals', write points, or quotes around cells"
    )
    say_once(f'{path}: {line}')
  return Cells(path, {name: cells for name, cells in columns if name}, rows[1:], delimiter)


class RowsOfFile(NamedTuple):
  """The rows of a CSV file, which are read anew each time and never all at once.

  names: of the columns, '' for one without a name; first: the number of the first row of
  cells in a spreadsheet, 1 without a header.
  """

  path: Path | str
  names: tuple[str, ...]
  delimiter: str
  first: int

  def blocks(self, size: int = 10_000) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Yields (numbers of rows in a spreadsheet, the cells of each column), `size` rows at a time.

    Raises ValueError for a row with another number of cells.
    """
    numbers, rows = [], []
    for i, cells in _rows_of(self.path, self.delimiter):
      if i < self.first:
        continue
      if len(cells) == len(self.names) + 1 and not cells[-1]:
        cells = cells[:-1]  # The row ends with a delimiter.
      if len(cells) != len(self.names):
        hint = f'a cell with {self.delimiter!r} in it must be in quotes'
        if len(cells) < len(self.names):
          hint = 'write an empty cell where one is missing, or delete a title or a footer'
        raise ValueError(
          f'{self.path}, row {i} has {len(cells)} cells, and the first row {len(self.names)}: '
          f'{hint}'
        )
      numbers.append(i)
      rows.append(cells)
      if len(rows) == size:
        yield numbers, [*zip(*rows, strict=True)]
        numbers, rows = [], []
    if rows:
      yield numbers, [*zip(*rows, strict=True)]


class Held(NamedTuple):
  """Cells in memory that are read as `RowsOfFile` are; columns: their texts, of one length."""

  path: str
  columns: Mapping[str, Sequence[str]]
  first: int = 2

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the columns."""
    return (*self.columns,)

  def blocks(self) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Yields (the numbers of all rows, the cells of each column) once."""
    cells = [*map(tuple, self.columns.values())]
    yield [*range(self.first, self.first + len(cells[0]))], cells


def unnamed(count: int) -> tuple[str, ...]:
  """Returns the names of the columns of a file without a header."""
  return tuple(f'column{i + 1}' for i in range(count))


def open_rows(path: str | Path, header: bool | None = None) -> RowsOfFile:
  """Opens a CSV file in UTF-8, with the delimiters of `read_cells`.

  header: whether its first row names the columns; None: unless a cell of it is a number, and
  so are all numbers of its column, or more than half of its texts are in the rows below, too.
  Without one the columns are column1, column2, ... Raises ValueError or FileNotFoundError.
  """
  path = existing(path, 'CSV file', Path.is_file)
  with path.open('rb') as file:
    data = file.read(_HEAD)
    is_cut = bool(file.read(1))
  check_text(path, data, _KINDS, cut=is_cut)
  text = data.decode('utf-8-sig', errors='ignore')
  text = text[: text.rfind('\n') + 1] if is_cut and '\n' in text else text
  text = re.sub(r'\A"?sep=.?"?$|^ +$', '', text, flags=re.MULTILINE | re.IGNORECASE)
  delimiter = _delimiter(text) if text.strip() else ','
  rows = [*itertools.islice(_rows_of(path, delimiter), 1000)]
  if not rows:
    raise ValueError(f'{path} has no rows')
  (number, first), others = rows[0], rows[1:]
  if header is None:
    header = _has_names([*itertools.zip_longest(*(row for _, row in rows), fillvalue='')])
  if not header:
    return RowsOfFile(path, unnamed(len(first)), delimiter, number)
  if not others:
    raise ValueError(f'{path} needs a header with the names of its columns, and rows below it')
  names = tuple(map(single_line, first))
  if all(len(row) == len(names) - 1 for _, row in others) and not names[-1]:
    names = names[:-1]
  for name, count in collections.Counter(filter(None, names)).items():
    if count > 1:
      raise ValueError(f'{path} has several columns {name!r}: rename them; {HEADER}')
  return RowsOfFile(path, names, delimiter, number + 1)


def _has_names(columns):
  # Whether the first cells of columns are names, and no cells like those below.
  for top, *cells in columns:
    if NUMBER.fullmatch(top) and all(x in MISSING or NUMBER.fullmatch(x) for x in cells):
      return False
  texts = [top in cells for top, *cells in columns if top not in MISSING]
  return 2 * sum(texts) <= len(texts)


_HEAD = 2**20  # bytes, by which the delimiter is known


def _rows_of(path, delimiter):
  # Yields (number in a spreadsheet, cells) of the rows that are not blank.
  number = 0
  with Path(path).open(encoding='utf-8-sig', newline='') as file:
    lines = file if delimiter != ' ' else ('\t'.join(line.split()) for line in file)
    reader = csv.reader(
      lines, delimiter='\t' if delimiter == ' ' else delimiter, skipinitialspace=True, strict=True
    )
    try:
      for number, line in enumerate(reader, 1):
        if number == 1 and len(line) <= 2 and re.fullmatch('sep=.?', line[0] if line else '', re.I):
          continue
        cells = [cell.strip().translate({9: ' ', 10: ' ', 13: ' '}) for cell in line]
        if any(cells) or len(cells) > 1:
          yield number, [_MARKED.sub('', cell, count=1) for cell in cells]
    except (csv.Error, UnicodeDecodeError) as error:
      raise ValueError(f'{path}, row {number + 1}: {error}') from None


def _may_be_one_column(text):
  # Whether a header such as "x, mm" stands above numbers such as 0,5.
  header, _, rest = text.lstrip().partition('\n')
  is_number = re.compile(r'[+-]?\d+,\d+', re.ASCII).fullmatch
  return re.fullmatch(r'[^,]+, [^,]+', header) and all(map(is_number, rest.split()))


def safe(text: str) -> str:
  """Returns text that a spreadsheet does not run: '=A1 for =A1.

  `read_cells` removes the mark.
  """
  runs = text.startswith((*'=@+-',)) and not (NUMBER.fullmatch(text) or readings(text))
  return f"'{text}" if runs else text


def single_line(name: str) -> str:
  """Returns the name of a column on one line, with a blank for each run of white space."""
  return ' '.join(name.split())


def _text(path):
  data = path.read_bytes()
  check_text(path, data, _KINDS)
  text = data.decode('utf-8-sig')
  # Excel's line sep=; would be the header.
  text = re.sub('\r\n?', '\n', text)
  return re.sub(r'\A"?sep=.?"?$|^ +$', '', text, flags=re.MULTILINE | re.IGNORECASE)


def _lines(text, delimiter, strict=False):
  lines = io.StringIO(text)
  if delimiter == ' ':
    lines, delimiter = ('\t'.join(line.split()) for line in lines), '\t'
  return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _delimiter(text):
  def fit(delimiter):
    widths = []
    with contextlib.suppress(csv.Error):  # a field of more than 131,072 characters
      lines = itertools.islice(_lines(text, delimiter), 1000)
      widths = [len(line) for line in lines if line]
    usual = max({*widths} - {1}, key=widths.count, default=1)
    count = widths.count(usual) * (usual > 1)
    if count and delimiter == ' ':  # Texts have blanks, too.
      has_numbers = any(map(NUMBER.fullmatch, text.rsplit(None, usual)[1:]))
      fits = {*widths[1:]} == {usual} and 1 < widths[0] <= usual <= widths[0] + 1
      count *= has_numbers and fits
    return (count, delimiter in ',;\t', widths[0]) if count > 1 else (0, False, 0)

  return max(',;\t| ', key=fit)

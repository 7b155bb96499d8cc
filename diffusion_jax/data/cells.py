"""Cells of CSV files as people have them, and what is said of other files."""

import collections
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.paths import existing

NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,9})?', re.ASCII | re.IGNORECASE)
# Patterns of a file's first bytes, and what it is.
_KINDS = r"""\x1f\x8b compressed by gzip: unpack it
BZh\d compressed by bzip2: unpack it
\xfd7zXZ compressed by xz: unpack it
PK\x03\x04 a zip archive or an Excel workbook (xlsx): unpack it, or save its sheet as CSV in UTF-8
\xd0\xcf\x11 an Excel workbook (xls): save its sheet as CSV in UTF-8
PAR1[^,;|\t\r\n] a Parquet file: pandas.read_parquet(file).to_csv(name, index=False) writes CSV
\xff\xfe|\xfe\xff text in UTF-16: save it as CSV in UTF-8
<(!DOCTYPE|!doctype|html) a page of HTML: download the table itself
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
  columns = zip(header, zip(*texts, strict=True), strict=True)
  return Cells(path, {name: cells for name, cells in columns if name}, rows[1:], delimiter)


def safe(text: str) -> str:
  """Returns text that a spreadsheet does not run: '=A1 for =A1.

  `read_cells` removes the mark.
  """
  runs = text.startswith((*'=@+-',)) and not NUMBER.fullmatch(text)
  return f"'{text}" if runs else text


def single_line(name: str) -> str:
  """Returns the name of a column on one line, with a blank for each run of white space."""
  return ' '.join(name.split())


def _text(path):
  data = path.read_bytes()
  for line in _KINDS.split('\n'):
    start, _, kind = line.partition(' ')
    if re.match(start.encode(), data):
      raise ValueError(f'{path} is {kind}')
  text, wrong = '', data.find(b'\0')
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    wrong = error.start
  if wrong >= 0:
    row = data.count(b'\n', 0, wrong) + 1
    raise ValueError(
      f'{path} is not text in UTF-8 (byte {wrong + 1:,}): save it as CSV in UTF-8; row {row} has '
      f'{data[wrong : wrong + 1]!r}, of Latin-1, Windows-1252 or UTF-16 (NUL bytes)'
    )
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

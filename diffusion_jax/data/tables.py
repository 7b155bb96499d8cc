"""Tables: CSV files of examples and of conditions, whose columns have names.

A number of an array is named after its column; a column of texts is one number
for each of its categories, column=category, which is 1 or 0.
"""

import csv
import decimal
import io
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data import buckets
from diffusion_jax.data.cells import HEADER, MISSING, NUMBER, Cells, read_cells, safe, single_line
from diffusion_jax.data.columns import check_columns
from diffusion_jax.data.npz import box_of, read_array
from diffusion_jax.data.set_files import say_left_out, say_once
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.declared import declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Finite, Rate, near

MOST_CATEGORIES = 200  # the most categories of a column
QUANTILES = 5, 50, 95  # of a summary of draws, in per cent
_NUMBERS = 'numbers have a decimal point and no other mark'
_LIKE_NUMBER = re.compile(r'[-+(]?\d', re.ASCII)
# Numbers between thousands' points, which may be decimals.
_THOUSANDS = re.compile(r'[+-]?[1-9]\d{0,2}(\.\d{3})+', re.ASCII)


@declares(
  what='a [table](arrays.md#a-table) of numbers and categories', needs='`data.path`, `data.x`'
)
def csv_table(
  path: ReadPath | Path,
  x: tuple[str, ...],
  split: str = 'train',
  context: tuple[str, ...] = (),
  categories: tuple[str, ...] = (),
  label: str = '',
  test_path: ReadPath = '',
  test_fraction: Rate = 0.0,
  bounds: tuple[Finite, ...] = (),
  drop_missing: bool = False,
) -> ArraySource:
  """Reads columns of numbers x, [N, D], of a CSV file with a header.

  context: the columns that x is given; 'rest' is all others. Columns in
  `categories` are read as categories, in sorted order; one of texts that is not
  there is refused. label: the column of classes. Missing values (NA, NULL, NaN, …) are a category
  of their own in `categories`, and refused elsewhere; drop_missing leaves their
  rows out. The test split is test_path, or else a fixed random test_fraction,
  which 'train' does not contain. bounds: as in `npz`. Raises ValueError
  that names row and column, or FileNotFoundError.
  """
  check_split(split)
  if not x:
    raise ValueError(f'x is empty: name columns of {path}')
  labels = (label,) if label else ()
  x, context, categories, labels = (
    tuple(map(single_line, names)) for names in (x, context, categories, labels)
  )
  cells = read_cells(buckets.local(str(path)))
  if tuple(context) == ('rest',) and 'rest' not in cells.columns:
    context = tuple(name for name in cells.columns if name not in (*x, *labels))
    if not context:
      raise ValueError(f'context=rest: {path} has no columns besides x and label')
  _check_choice(cells, (*x, *context, *labels), {*categories} - {*context, *labels})
  _check_texts(cells, context, categories)
  whole = [n for n in (*x, *context, *labels) if n not in categories]
  cells = _without_gaps(cells, whole) if drop_missing else cells
  names = {
    'x': x,
    'context': [n for c in context for n in _names(cells, c, c in categories)],
    'label': [n for c in labels for n in _names(cells, c, c in categories, True)],
  }
  if test_path and split == 'test':
    cells = read_cells(buckets.local(test_path))
    cells = _without_gaps(cells, whole) if drop_missing else cells
  size = len(cells.rows)
  index = np.arange(size) if test_path else random_part(size, split, test_fraction, path)
  others = {*context, *labels}
  arrays = {n: numbers(cells, every, False, others)[index] for n, every in names.items() if every}
  classes = tuple(name.partition('=')[2] for name in names['label'])
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


def labels_in(
  path: str | Path, column: str | None, class_names: Sequence[str]
) -> np.ndarray | None:
  """Returns the classes of the rows of a CSV file, int32 [N]; None without this column.

  None of classes without names, too. Raises ValueError for a cell that is none of them.
  """
  cells = read_cells(buckets.local(str(path)))
  if not (column and class_names) or single_line(column) not in cells.columns:
    return None
  names = [f'{single_line(column)}={name}' for name in class_names]
  return numbers(cells, names, others=()).argmax(axis=1).astype(np.int32)


def _check_choice(cells, names, others):
  # others: the columns of categories that are neither of context nor label.
  check_columns(str(cells.path), [*cells.columns], names, hint=f': {HEADER}')
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'column {name!r} is named twice in x, context and label')
    if '=' in name:
      raise ValueError(f"{cells.path}: rename column {name!r} without '='")
  if others:
    meant = near(min(others), names)
    raise ValueError(f'categories={min(others)}{meant} is not a column of context or label')


def _without_gaps(cells, columns):
  # Leaves out the rows that lack a value of these columns.
  check_columns(str(cells.path), [*cells.columns], columns)
  gaps = [[_key(text) == '' for text in cells.columns[name]] for name in columns]
  full = ~np.any(gaps, axis=0)
  if not full.any():
    raise ValueError(f'{cells.path}: each row lacks a value of {", ".join(columns)}')
  lost = int((~full).sum())
  say_left_out(cells.path, lost, len(full), 'rows', why='they lack a value')
  kept = {name: [*itertools.compress(texts, full)] for name, texts in cells.columns.items()}
  return cells._replace(columns=kept, rows=[*itertools.compress(cells.rows, full)])


def _key(text):
  # Returns what spellings of a value have in common: '' is missing.
  if NUMBER.fullmatch(text):
    return decimal.Decimal(text)
  if text in MISSING:
    return ''
  return text.lower() if text.lower() in ('true', 'false') else text


def _check_texts(cells, context, categories):
  # Refuses columns of context that have texts and no numbers, unless they are named.
  unnamed = {}
  for name in context:
    texts = _texts(cells, name)
    if texts and name not in categories and not any(map(NUMBER.fullmatch, texts)):
      _categories(cells, name)
      unnamed[name] = texts
  if unnamed:
    column, texts = next(iter(unnamed.items()))
    named = [name for name in context if name in unnamed or name in categories]
    raise ValueError(
      f'{cells.path}: column {column!r} has texts, such as {str(texts[:3])[1:-1]}, and no number '
      f'({_NUMBERS}): data.categories={_row(named)} reads texts, or leave it out of context'
    )


def _texts(cells, column):
  # Returns the different texts of a column that are not of a missing value.
  return [x for x in dict.fromkeys(cells.columns[column]) if _key(x) != '']


def _names(cells, column, is_chosen, is_label=False):
  # Returns the names of the numbers of a column of context or label.
  if not is_chosen and not (is_label and _texts(cells, column)):
    return [column]
  names = _categories(cells, column, is_chosen)
  say_once(f'{cells.path}: column {column!r} has {len(names)} categories: {_some(names)}')
  return [f'{column}={text}' for text in names]


def _categories(cells, column, with_missing=False):
  # Returns the categories of a column, sorted as numbers or texts.
  categories = {}
  for text in sorted(_texts(cells, column), key=len):
    categories.setdefault(_key(text), text)
  if with_missing and any(_key(x) == '' for x in cells.columns[column]):
    categories[''] = 'NA'
  count, size = len(categories), len(cells.rows)
  if not _can_be_categories(count, size):
    text = next(iter(categories.values()), '')
    hint = f'correct numbers such as {text!r} ({_NUMBERS}), or ' * bool(_LIKE_NUMBER.match(text))
    raise ValueError(
      f'{cells.path}: column {column!r} has {count:,} different texts, and 2 to '
      f'{MOST_CATEGORIES:,} can be categories, at most one for two of the {size:,} rows: '
      f'{hint}leave it out of context and label'
    )
  return [categories[x] for x in sorted(categories, key=lambda x: (isinstance(x, str), x))]


def _can_be_categories(count, size):
  return 1 < count <= min(MOST_CATEGORIES, max(5, size / 2))


def _some(names):
  return ', '.join(names[:10]) + ', …' * (len(names) > 10)


def _columns(names):
  # Returns {column: its categories, or [] of a column of numbers}.
  columns = {}
  for name in names:
    column, is_category, text = name.partition('=')
    columns.setdefault(column, []).extend([text] if is_category else [])
  return columns


def _places(names):
  # Yields (column, its categories, the slice of its numbers).
  start = 0
  for column, categories in _columns(names).items():
    end = start + max(1, len(categories))
    yield column, categories, slice(start, end)
    start = end


def numbers(
  cells: Cells, names: Sequence[str], blank: bool = False, others: Collection[str] | None = None
) -> np.ndarray:
  """Returns the numbers with these names, float64 [N, D].

  blank: a missing number is NaN. others: the columns besides x, of data; None:
  the rows are conditions. Raises ValueError that names row and column of another
  cell.
  """
  arrays, columns = [], _columns(names)
  check_columns(str(cells.path), [*cells.columns], [*columns])
  for column, categories in columns.items():
    texts = cells.columns[column]
    if categories:
      place = {_key(text): i for i, text in enumerate(categories)}
      index = np.array([place.get(_key(text), -1) for text in texts])
      arrays.append(np.eye(len(categories))[index])
      misfits = index < 0
    else:
      values = np.array([float(x) if NUMBER.fullmatch(x) else np.nan for x in texts])
      arrays.append(values[:, None])
      misfits = ~np.isfinite(values) & np.array([not blank or _key(x) != '' for x in texts])
      points = np.array([cells.delimiter == ';' and '.' in x for x in texts])
      misfits |= points & all(_THOUSANDS.fullmatch(x) for x in itertools.compress(texts, points))
    if misfits.any():
      rows = [cells.rows[i] for i in np.flatnonzero(misfits).tolist()]
      problem = _problem(cells, column, texts[int(np.argmax(misfits))], categories, others)
      raise ValueError(
        f'{cells.path}, row {rows[0]}, column {column!r}: {problem} ({len(rows):,} of '
        f'{len(texts):,} rows: {str(rows[:5])[1:-1]})'
      )
  return np.concatenate(arrays, axis=1)


def _problem(cells, column, text, categories, others):
  # Returns what is wrong with a cell, and what the user can do that works.
  of_data, as_category = others is not None, ''
  count = len({*map(_key, cells.columns[column])})
  if others is not None and column in others and _can_be_categories(count, len(cells.rows)):
    as_category = f'read it as a category (categories={column})'
  if _key(text) == '':
    what = f'{text!r} is a missing value' if text else 'the value is missing'
    left_out = 'leave the row out' + ' (drop_missing=True)' * of_data
    return f'{what}: {", or ".join(filter(None, ("fill it in", left_out, as_category)))}'
  if categories:
    return f'{text!r}{near(text, categories)} is not one of its categories {_some(categories)}'
  if NUMBER.fullmatch(text) and np.isfinite(float(text)):
    return (
      f'{text!r} may be {text.replace(".", "")} or {float(text)}, since ";" divides the cells and '
      'three digits follow each point: leave the points out, or add a digit to the decimals'
    )
  if others is not None and column not in others:
    as_category = (
      'give columns of 0 and 1, or the column as context or label, or take configs/table.py'
    )
  correct = f'correct it ({_NUMBERS})'
  return f'{text!r} is not a number: {", or ".join(filter(None, (correct, as_category)))}'


def is_csv(path: str | Path, values: ArraySpec) -> bool:
  """Returns whether a file should have columns with the names of the values."""
  return bool(values.names) and Path(path).suffix.lower() not in ('.npy', '.npz')


def read_rows(path: str | Path, values: ArraySpec, blank: bool = False) -> np.ndarray:
  """Returns rows of values from a CSV file, or `context` of a .npy or npz file.

  Columns may be in any order, and others are left out. blank: a missing number
  is NaN. Raises ValueError or FileNotFoundError.
  """
  if is_csv(path, values):
    return numbers(read_cells(path), values.names, blank)
  return read_array(path, 'context')


def rows_of(values: Any, spec: ArraySpec, what: str, blank: bool = False) -> np.ndarray:
  """Returns what a user gives as rows of arrays, float64 [K, *spec.shape].

  values: one array or several, or a dict, data frame or structured array with
  the columns of spec.names, whose cells are read like cells of a CSV file; one
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
    return numbers(Cells(what, {**cells}, [*range(size)]), spec.names, blank)
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


def row_problems(what: str, rows: np.ndarray, facts: ArraySpec, joint: bool) -> Iterator[str]:
  """Yields what is wrong with rows of contexts, or with joint ones, NaN where they are drawn."""
  if not np.isfinite(rows[~np.isnan(rows)] if joint else rows).all():
    yield f'{what} has numbers that are not finite'
  yield from _category_problems(what, rows, facts.names, joint)
  given = rows[~np.isnan(rows)]
  if facts.levels and not np.isin(given, np.arange(facts.levels)).all():
    yield f'{what} has numbers that are not whole numbers from 0 to {facts.levels - 1}'
  if not joint:
    return
  full = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
  if full.any():
    yield f'row {np.argmax(full)} of {what} gives all numbers of x: NaN marks those that are drawn'
  known = rows.copy()
  box = known[..., : len(facts.low)]
  box[:] = np.where(np.isnan(box), facts.low, box)
  outside = ~facts.inside(known)
  if outside.any():
    yield f'row {np.argmax(outside)} of {what} has a number outside data.bounds'


def _category_problems(what, rows, names, joint):
  # Yields the first row of each column of categories whose numbers are not one category.
  for column, categories, place in _places(names):
    part = rows[:, place]
    if not categories:
      continue
    is_one = np.isin(part, (0.0, 1.0)).all(axis=1) & (part.sum(axis=1) == 1.0)
    wrong = ~(is_one | joint & np.isnan(part).all(axis=1))
    if wrong.any():
      numbers = ', '.join(f'{x:g}' for x in part[np.argmax(wrong)])
      yield (
        f'row {np.argmax(wrong)} of {what} has {numbers} for the categories {_some(categories)} of '
        f'{column!r}: one must be 1 and the others 0, or give a table with the column {column!r}'
      )


def _text(value):
  # Returns what a CSV file has for a cell in memory.
  text = str(value).strip()
  return '' if text in ('None', 'nan', 'NaT', '<NA>') else text


def texts_of(names: Iterable[str], x: np.ndarray) -> dict[str, list[str]]:
  """Returns the columns of a table of numbers x [N, D] with these names."""
  columns = {}
  for column, categories, place in _places(names):
    if categories:
      columns[column] = [categories[i] for i in x[:, place].argmax(axis=1)]
    else:
      columns[column] = x[:, place.start].astype(str).tolist()
  return columns


def summary_of(
  names: Sequence[str], x: np.ndarray, groups: Mapping[str, Sequence[object]]
) -> dict[str, list[object]]:
  """Returns the columns of a table that sums up draws x [N, D] of columns with these names.

  groups: columns [N], whose different rows are groups of draws, in the order of their first draw.
  The table has a row for each group and each column of x: the number of the draws, their mean,
  standard deviation (with N - 1), and their quantiles of 5, 50 and 95 % (NumPy's, by linear
  interpolation).
  """
  members: dict[tuple[object, ...], list[int]] = {}
  for i, key in enumerate(zip(*groups.values(), strict=True)):
    members.setdefault(key, []).append(i)
  head = (*groups, 'column', 'draws', 'mean', 'deviation', *(f'{q}%' for q in QUANTILES))
  columns: dict[str, list[object]] = {name: [] for name in head}
  for key, index in members.items():
    draws = np.asarray(x[index], np.float64)
    quantiles = np.quantile(draws, np.array(QUANTILES) / 100, axis=0)
    spread = draws.std(axis=0, ddof=1) if len(index) > 1 else np.full(draws.shape[1:], np.nan)
    for i, numbers_of in enumerate(zip(draws.mean(axis=0), spread, *quantiles, strict=True)):
      cells = ('' if np.isnan(x) else f'{x:.8g}' for x in numbers_of)
      row = (*key, names[i], len(index), *cells)
      for column, cell in zip(columns.values(), row, strict=True):
        column.append(cell)
  return columns


def _row(names):
  # Returns names as a row of a CSV file, and as a flag takes them.
  file = io.StringIO()
  csv.writer(file, lineterminator='').writerow(names)
  return file.getvalue()


def as_csv(columns: Mapping[str, Iterable[object]]) -> str:
  """Returns the columns as a CSV file has them, below their names; see `cells.safe`."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  for row in (columns, *zip(*columns.values(), strict=True)):
    writer.writerow([safe(str(cell)) for cell in row])
  return file.getvalue()

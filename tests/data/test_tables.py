import csv
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.datasets import load_wine

from diffusion_jax.data import tables
from diffusion_jax.data.sources import measured
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.splits import random_part
from diffusion_jax.data.tables import as_csv, csv_table, numbers, read_cells, texts_of
from tests.refusals import one_line

HOUSES = """\
city,price,rooms,"zip, code",kind
Bern,1.5,3,10,flat
"Aarau, old town",-2e3,4,9,house

Chur,+.25,5,10,flat
Bern,7,6.0,100,flat
"""
FIELDS = {
  'context': ('rooms', 'city', 'zip, code'),
  'categories': ('zip, code',),
  'label': 'kind',
}


def write(path, text, **how):
  path.write_bytes(text.encode(**how))
  return path


def delimited(text, mark):
  file = io.StringIO()
  csv.writer(file, delimiter=mark).writerows(csv.reader(io.StringIO(text)))
  return file.getvalue()


@pytest.mark.parametrize('mark', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_columns_are_numbers_categories_and_classes(tmp_path, mark, encoding):
  path = write(tmp_path / 'a.csv', delimited(HOUSES, mark), encoding=encoding)
  source = csv_table(path, ('price', 'rooms'), label='kind')
  np.testing.assert_array_equal(source.x, [[1.5, 3], [-2000, 4], [0.25, 5], [7, 6]])
  assert source.context is None and source.facts.x.names == ('price', 'rooms')
  source = csv_table(path, ('price',), **FIELDS)
  assert source.facts.class_names == ('flat', 'house') and source.label.tolist() == [0, 1, 0, 0]
  assert source.facts.context.names == (
    *('rooms', 'city=Aarau, old town', 'city=Bern', 'city=Chur'),
    *('zip, code=9', 'zip, code=10', 'zip, code=100'),
  )
  one_hot = [[3, 0, 1, 0, 0, 1, 0], [4, 1, 0, 0, 1, 0, 0], [5, 0, 0, 1, 0, 1, 0]]
  np.testing.assert_array_equal(source.context, [*one_hot, [6, 0, 1, 0, 0, 0, 1]])
  facts = measured(source)
  assert facts.context.mean == (4.5, *6 * (0.0,)) and facts.context.std[1:] == 6 * (1.0,)


def test_the_rest_and_the_splits(tmp_path):
  """The training file, with its held-out part, has the categories."""
  path = write(tmp_path / 'a.csv', HOUSES)
  rest = csv_table(path, ('price',), context=('rest',))
  assert [x.partition('=')[0] for x in rest.facts.context.names] == [
    *('city', 'city', 'city', 'rooms', 'zip, code', 'kind', 'kind')
  ]
  test = csv_table(path, ('price',), 'test', **FIELDS, test_fraction=0.5)
  whole = csv_table(path, ('price',), **FIELDS)
  np.testing.assert_array_equal(test.context, whole.context[random_part(4, 'test', 0.5, '')])
  other = write(tmp_path / 'b.csv', 'kind;zip, code;price;city;rooms\nhouse;9;1;Chur;2\n')
  fields = {**FIELDS, 'test_path': str(other)}
  assert len(csv_table(path, ('price',), **fields)) == 4
  test = csv_table(path, ('price',), 'test', **fields)
  assert test.x == [[1]] and test.label == [1] and test.facts.class_names == ('flat', 'house')
  np.testing.assert_array_equal(test.context, [[2, 0, 0, 1, 1, 0, 0]])


def test_a_table_of_scikit_learn(tmp_path):
  """The index of the rows is a column without a name, which is left out."""
  wine: Any = load_wine()
  rows = zip(wine.data, wine.target_names[wine.target], strict=True)
  with (tmp_path / 'wine.csv').open('w', newline='') as file:
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(['', *wine.feature_names, 'class'])
    writer.writerows([i, *map(float, row), kind] for i, (row, kind) in enumerate(rows))
  source = csv_table(tmp_path / 'wine.csv', ('alcohol',), context=('rest',), label='class')
  assert source.context is not None
  np.testing.assert_array_equal(np.hstack([source.x, source.context]), wine.data)
  np.testing.assert_array_equal(source.label, wine.target)
  assert source.facts.class_names == tuple(wine.target_names)


NAMES = st.text(st.characters(exclude_categories=('C', 'Z'), exclude_characters='=;'), min_size=1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, database=None)
@given(st.dictionaries(NAMES, st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_numbers_and_names_come_back(tmp_path_factory, columns):
  x = np.array([*columns.values()]).T
  path = tmp_path_factory.getbasetemp() / 'round_trip.csv'
  write(path, as_csv(texts_of(columns, x)))
  cells = read_cells(path)
  assert [*cells.columns] == [*columns]
  np.testing.assert_array_equal(numbers(cells, [*columns]), x)


SPEC = ArraySpec((4,), names=('floor area', 'city=Chur', 'city=Old Town', 'rooms'))
WANTED = [[80.5, 0.0, 1.0, 3.0], [60.0, 0.0, 1.0, 2.0]]


class Frame:
  """Has what a data frame of pandas has."""

  def __init__(self, columns):
    self.keys, self.__getitem = columns.keys, columns.__getitem__

  def __getitem__(self, name):
    return self.__getitem(name)


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path):
  """By the names of their columns, in any order; another column is left out."""
  (tmp_path / 'a.csv').write_text('rooms,floor area,city,x\n3,80.5,Old Town,1\n2,60,Old Town,2\n')
  expected = tables.read_rows(tmp_path / 'a.csv', SPEC)
  np.testing.assert_array_equal(expected, WANTED)
  cells = {'rooms': np.array([3, 2]), 'x': 'a', 'floor area': [80.5, 60.0], 'city': 'Old Town'}
  kinds = [('floor area', float), ('city', 'U8'), ('rooms', int)]
  array = np.array([(80.5, 'Old Town', 3), (60.0, 'Old Town', 2)], kinds)
  for rows in (cells, Frame(cells), array, WANTED, np.float32(WANTED)):
    np.testing.assert_array_equal(tables.rows_of(rows, SPEC, 'y'), expected)
  for row in (array[0], WANTED[0], {**cells, 'rooms': 3, 'floor area': np.float32(80.5)}):
    np.testing.assert_array_equal(tables.rows_of(row, SPEC, 'y'), expected[:1])
  numbers, one = SPEC._replace(shape=(1,), names=('a',)), {'a': [1.5, None, np.nan]}
  np.testing.assert_array_equal(
    tables.rows_of(one, numbers, 'y', blank=True), [[1.5], [np.nan], [np.nan]]
  )


def test_unsuitable_rows_in_memory():
  row = {'floor area': 80.0, 'city': 'Chur', 'rooms': 3}
  for change, line in (
    ({'city': 'chur'}, "y, row 0, column 'city': 'chur' (did you mean 'Chur'?)"),
    ({'city': None}, "y, row 0, column 'city': the value is missing"),
    ({'rooms': np.nan}, "y, row 0, column 'rooms': the value is missing"),
    ({'rooms': [3, 'big']}, "y, row 1, column 'rooms': 'big' is not a number"),
    ({'rooms': [3, 2], 'city': ['Chur'] * 3}, 'y needs columns of one length'),
    ({'rooms': []}, 'y needs columns of one length'),
  ):
    with one_line(line):
      tables.rows_of({**row, **change}, SPEC, 'y')
  table = ', or a table with the columns floor area, city, rooms'
  for rows, line in (
    ({'Rooms': 3}, "y has no column 'floor area', but Rooms"),
    ([80.0, 'Chur', 3], f"y=[80.0, 'Chur', 3] is not an array of numbers{table}"),
    ([80.0, 1.0, 3.0], f'y has the shape [3], and [4] or [K, 4] is needed{table}'),
    (np.zeros((0, 4)), 'y has the shape [0, 4]'),
    ({}, 'y={} is not an array'),
  ):
    with one_line(line):
      tables.rows_of(rows, SPEC, 'y')

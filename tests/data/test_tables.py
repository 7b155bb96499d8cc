"""Columns of a CSV file are numbers or categories, and each cell that is neither gets a line."""

import csv
import io

import numpy as np
import pyarrow.csv as arrow
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_array_equal

from diffusion_jax.data import set_files, tables
from diffusion_jax.data.cells import read_cells
from diffusion_jax.data.sources import measured
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.splits import random_part
from diffusion_jax.data.tables import as_csv, csv_table, numbers, texts_of
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
  'categories': ('zip, code', 'city'),
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
  assert_array_equal(source.x, [[1.5, 3], [-2000, 4], [0.25, 5], [7, 6]])
  assert source.context is None and source.facts.x.names == ('price', 'rooms')
  source = csv_table(path, ('price',), **FIELDS)
  assert source.facts.class_names == ('flat', 'house') and source.label.tolist() == [0, 1, 0, 0]
  assert source.facts.context.names == (
    *('rooms', 'city=Aarau, old town', 'city=Bern', 'city=Chur'),
    *('zip, code=9', 'zip, code=10', 'zip, code=100'),
  )
  one_hot = [[3, 0, 1, 0, 0, 1, 0], [4, 1, 0, 0, 1, 0, 0], [5, 0, 0, 1, 0, 1, 0]]
  assert_array_equal(source.context, [*one_hot, [6, 0, 1, 0, 0, 0, 1]])
  facts = measured(source)
  assert facts.context.mean == (4.5, *6 * (0.0,)) and facts.context.std[1:] == 6 * (1.0,)


def test_the_rest_and_the_splits(tmp_path):
  """The training file, with its held-out part, has the categories."""
  path = write(tmp_path / 'a.csv', HOUSES)
  rest = csv_table(path, ('price',), context=('rest',), categories=('city', 'kind'))
  assert [x.partition('=')[0] for x in rest.facts.context.names] == [
    *('city', 'city', 'city', 'rooms', 'zip, code', 'kind', 'kind')
  ]
  test = csv_table(path, ('price',), 'test', **FIELDS, test_fraction=0.5)
  whole = csv_table(path, ('price',), **FIELDS)
  assert_array_equal(test.context, whole.context[random_part(4, 'test', 0.5, '')])
  other = write(tmp_path / 'b.csv', 'kind;zip, code;price;city;rooms\nhouse;9;1;Chur;2\n')
  fields = {**FIELDS, 'test_path': str(other)}
  assert len(csv_table(path, ('price',), **fields)) == 4
  test = csv_table(path, ('price',), 'test', **fields)
  assert test.x == [[1]] and test.label == [1] and test.facts.class_names == ('flat', 'house')
  assert_array_equal(test.context, [[2, 0, 0, 1, 1, 0, 0]])


NAMES = st.text(st.characters(exclude_categories=('C', 'Z'), exclude_characters='='), min_size=1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, database=None)
@given(st.dictionaries(NAMES, st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_numbers_and_names_come_back(tmp_path_factory, columns):
  x = np.array([*columns.values()]).T
  path = tmp_path_factory.getbasetemp() / 'round_trip.csv'
  write(path, as_csv(texts_of(columns, x)))
  cells = read_cells(path)
  assert [*cells.columns] == [*columns]
  assert_array_equal(numbers(cells, [*columns]), x)


SPELLINGS = '{!r}', '{:e}', '{:.3f}', '{:.17g}', ' {:g} ', '"{!r}"', '{:E}', '-.5', '5.', '007'


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
  st.lists(st.tuples(FLOATS, st.sampled_from(SPELLINGS), FLOATS), min_size=1, max_size=5),
  st.sampled_from(',;\t|'),
  st.sampled_from(['\n', '\r\n', '\r', '\n\n']),
  st.sampled_from(['', '\ufeff']),
)
def test_numbers_are_those_that_arrow_reads(tmp_path_factory, rows, mark, end, start):
  """Arrow, another reader, gives the same numbers if told the delimiter that we find."""
  cells = [('"a, b"', 'c'), *((text.format(x), repr(y)) for x, text, y in rows)]
  text = start + end.join(map(mark.join, cells)) + end
  path = write(tmp_path_factory.getbasetemp() / 'arrow.csv', text)
  exact = arrow.read_csv(path, parse_options=arrow.ParseOptions(delimiter=mark))
  found = read_cells(path)
  assert [*found.columns] == exact.column_names == ['a, b', 'c']
  columns = [np.array(exact[name], np.float64) for name in exact.column_names]
  assert_array_equal(numbers(found, exact.column_names), np.transpose(columns))


# Numbers with marks, and texts with digits.
TEXTS = """1,234,567 2,000/12% 13.5%/$1200 -$900.5/1,5 2,5/(12) (9)/−12 −9/1.0D+02 2.5d-3/1_0 2_5/\
0x1F 0xaa/1'200 3'100/1\xa0200 2\xa0500/1.234.567 2.000.000/10:00 11:30:15/2020-01-02 2021-12-31/\
12kg 13.5kg/7A 9C/٣ ٤/\u200b1 \u200b3/18-25 26-35 65+/<=50K >50K/1st 2nd 3rd/[50,75) [75,100)/\
0_no 1_yes/none some"""


@pytest.mark.parametrize('texts', TEXTS.split('/'))
def test_texts_are_categories_where_they_are_named(tmp_path, texts):
  """The message has the flag to type; in a column of numbers it names the row with a word."""
  texts = texts.split(' ')
  columns = {'b': range(9), 'c': [*'uvwuvwuvw'], 'a': (9 * texts)[:9], 'd, e': (9 * texts)[:9]}
  path = write(tmp_path / 'a.csv', as_csv(columns))
  flag = 'categories=c,a,"d, e" '
  with one_line("a.csv: column 'a' has texts, such as", *map(repr, texts[:3]), flag):
    csv_table(path, ('b',), context=('c', 'a', 'd, e'), categories=('c',))
  own = csv_table(path, ('b',), context=('c', 'a', 'd, e'), categories=('c', 'a', 'd, e'))
  assert [*own.facts.context.names[:3]] == ['c=u', 'c=v', 'c=w']
  assert {*own.facts.context.names[3:]} == {f'{n}={x}' for n in ('a', 'd, e') for x in texts}
  write(path, as_csv({'b': range(9), 'a': ['1', *columns['a'][1:]]}))
  with one_line("a.csv, row 3, column 'a'", repr(texts[1]), 'categories=a', 'of 9 rows'):
    csv_table(path, ('b',), context=('a',))


# pandas.io.parsers' default list, in the spellings of its documentation.
NA = (
  '#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|'
  'null'
)


@pytest.mark.parametrize('text', ['', *NA.split('|'), '?', '-', ' '])
def test_missing_values(tmp_path, capsys, text):
  columns = {'x': [1, 2, 3, text, 5], 'k': ['u', text, 'v', 'u', text], 'n': [text, 1, 2, 3, 4]}
  path = write(tmp_path / 'a.csv', as_csv(columns))
  for x, row in ('x', 5), ('n', 2):
    with one_line(f'a.csv, row {row}, column {x!r}', 'drop_missing=True', f'1 of 5 rows: {row}'):
      csv_table(path, (x,))
  with one_line("a.csv, row 3, column 'k'", '2 of 5 rows: 3, 6', 'categories=k'):
    numbers(read_cells(path), ['k=u', 'k=v'], others=['k'])
  kept = csv_table(path, ('x',), label='k', drop_missing=True)
  assert kept.x.tolist() == [[1], [3]] and kept.label.tolist() == [0, 1]
  assert 'a.csv: 3 of 5 rows are left out: they lack a value' in capsys.readouterr().out
  own = csv_table(path, ('x',), context=('k',), categories=('k',), drop_missing=True)
  assert own.facts.context.names == ('k=NA', 'k=u', 'k=v')
  assert_array_equal(own.context, np.eye(3)[[1, 0, 2, 0]])
  assert np.isnan(numbers(read_cells(path), ['x'], blank=True)[:, 0]).tolist() == [0, 0, 0, 1, 0]


def test_a_spreadsheet_runs_no_text_of_a_table(tmp_path):
  """A stranger's names and categories are texts there, and are read as they were."""
  texts = ['=HYPERLINK("http://a/b")', '@SUM(A1)', '+1+1', '-2+3', '-1.5', '+1e3', 'a=b']
  text = as_csv({texts[0]: texts, 'n': range(7)})
  assert [line[:2] for line in text.split('\n')[2:-1]] == ["'@", "'+", "'-", '-1', '+1', 'a=']
  assert text.startswith('"\'=HYP') and text.count('"\'=HYP') == 2
  assert read_cells(write(tmp_path / 'a.csv', text)).columns[texts[0]] == (*texts,)


@pytest.mark.parametrize('count', [3, 30])
def test_the_advice_for_a_missing_value_works(tmp_path, count):
  """A category is advised where it is one: in context or label, of few different values."""
  columns = {'x': ['', *range(59)], 'k': ['', *(i % count for i in range(59))]}
  path = write(tmp_path / 'a.csv', as_csv(columns))
  for fields in {'x': ('x',)}, {'x': ('k',), 'context': ()}, {'x': ('x',), 'context': ('k',)}:
    with pytest.raises(ValueError, match='drop_missing=True') as error:
      csv_table(path, **fields)
    csv_table(path, **fields, drop_missing=True)
    assert 'categories=' not in str(error.value)
  rows = {'x': range(60), 'k': columns['k']}
  path = write(tmp_path / 'b.csv', as_csv(rows))
  with pytest.raises(ValueError, match="'k': the value is missing") as error:
    csv_table(path, ('x',), context=('k',))
  assert ('categories=k' in str(error.value)) == (count == 3)
  if count == 3:
    csv_table(path, ('x',), context=('k',), categories=('k',))
  with pytest.raises(ValueError, match='fill it in, or leave the row out .1 of'):
    tables.read_rows(path, ArraySpec((1,), names=('k',)))


HALVES = {
  'two': [1, 1, 0, 5], 'halves': [0.5, 0.5, 0, 5], 'none': [0, 0, 0, 5], 'negative': [2, -1, 0, 5],
}  # fmt: skip


@pytest.mark.parametrize('row', HALVES.values(), ids=HALVES)
def test_numbers_of_no_category_are_refused(row):
  """A row whose category is drawn has NaN for all of its numbers."""
  spec = ArraySpec((4,), names=('c=a', 'c=b', 'c=e', 'n'))
  good = [[0, 0, 1, 0.5], [1, 0, 0, -1]]
  assert not [*tables.row_problems('y', np.array(good), spec, False)]
  [problem] = tables.row_problems('y', np.array([*good, row], float), spec, False)
  assert problem.startswith('row 2 of y has ') and "the categories a, b, e of 'c'" in problem
  drawn = np.array([[np.nan, np.nan, np.nan, 1], [np.nan, 0, 0, 1]])
  [problem] = tables.row_problems('y', drawn, spec, True)
  assert problem.startswith('row 1 of y has nan, 0, 0 for')


def test_spellings_of_a_value_are_one_class(tmp_path, capsys):
  path = write(tmp_path / 'a.csv', 'a,b,c\n1,0.0,True\n2,1,true\n3,0,FALSE\n4,1.0,False\n')
  other = write(tmp_path / 'b.csv', 'a,b,c\n5,1e0,TRUE\n6,00,false\n')
  train, test = (
    csv_table(
      path, ('a',), split, context=('c',), categories=('c',), label='b', test_path=str(other)
    )
    for split in ('train', 'test')
  )
  assert train.facts.class_names == ('0', '1') and train.label.tolist() == [0, 1, 0, 1]
  assert_array_equal(train.context, np.eye(2)[[1, 1, 0, 0]])
  assert test.label.tolist() == [1, 0]
  assert_array_equal(test.context, np.eye(2)[[1, 0]])
  assert f"{path}: column 'b' has 2 categories: 0, 1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
  'texts, is_ambiguous',
  [('1.250 2.100 890', True), ('1.250 0.100 3', False), ('1.25 2.100', False)],
)
def test_points_between_thousands(tmp_path, texts, is_ambiguous):
  columns = {'a': texts.split(), 'b': range(len(texts.split()))}
  path = write(tmp_path / 'a.csv', as_csv(columns))
  exact = np.array(texts.split(), float)
  assert_array_equal(numbers(read_cells(path), ['a'])[:, 0], exact)
  write(path, as_csv(columns).replace(',', ';'))
  if is_ambiguous:
    with one_line("row 2, column 'a': '1.250' may be 1250 or 1.25, since"):
      numbers(read_cells(path), ['a'])
  else:
    assert_array_equal(numbers(read_cells(path), ['a'])[:, 0], exact)


def test_a_category_for_almost_every_row_is_refused(tmp_path):
  names = [f'person {i}' for i in range(27)] + 3 * ['Ada']
  path = write(tmp_path / 'a.csv', as_csv({'a': range(30), 'b': names, 'c': 10 * ['u', 'v', 'w']}))
  for fields in {'context': ('rest',)}, {'label': 'b'}, {'context': ('b',), 'categories': ('b',)}:
    with one_line("column 'b' has 28 different texts", 'leave it out of context and label'):
      csv_table(path, ('a',), **fields)
  assert csv_table(path, ('a',), context=('c',), categories=('c',)).context.shape == (30, 3)


def test_decimal_commas_of_a_context_are_numbers_to_correct(tmp_path):
  rows = ''.join(f'{i};{i},5\n' for i in range(60))
  path = write(tmp_path / 'a.csv', f'a;b\n{rows}')
  with one_line(
    "column 'b' has 60 different texts",
    "correct numbers such as '0,5' (numbers have a decimal point and no other mark), or leave it",
  ):
    csv_table(path, ('a',), context=('b',))


@pytest.mark.parametrize(
  'text, is_said',
  [
    ('x, mm\n0,5\n-1,25\n', True),
    ('x,mm\n0,5\n-1,25\n', False),
    ('x, mm\n0, 5\n-1, 25\n', False),
    ('x, mm\n0,5\n-1,a\n', False),
    ('x, mm\n0.5,5\n-1,25\n', False),
    ('x, mm, kg\n0,5,1\n-1,25,2\n', False),
    ('"x, mm"\n0.5\n1.25\n', False),
  ],
)
def test_a_comma_that_may_be_of_decimals_is_said(text, is_said, tmp_path, capsys, monkeypatch):
  """A column named "x, mm" without quotes looks like two columns."""
  monkeypatch.setattr(set_files, '_SAID', set())
  path = write(tmp_path / 'a.csv', text)
  for _ in range(2):
    read_cells(path)
  line = (
    f"{path}: the comma divides its cells: if it is the decimals', write points, "
    'or quotes around cells\n'
  )
  assert capsys.readouterr().out == line * is_said


SPEC = ArraySpec((4,), names=('floor area', 'city=Chur', 'city=Old Town', 'rooms'))
WANTED = [[80.5, 0.0, 1.0, 3.0], [60.0, 0.0, 1.0, 2.0]]


class Frame:
  """Has what a data frame of pandas has."""

  def __init__(self, columns):
    self.keys, self.__getitem = columns.keys, columns.__getitem__

  def __getitem__(self, name):
    return self.__getitem(name)


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path):
  """Columns are found by their names, in any order, and columns that the run lacks are ignored."""
  (tmp_path / 'a.csv').write_text('rooms,floor area,city,x\n3,80.5,Old Town,1\n2,60,Old Town,2\n')
  expected = tables.read_rows(tmp_path / 'a.csv', SPEC)
  assert_array_equal(expected, WANTED)
  cells = {'rooms': np.array([3, 2]), 'x': 'a', 'floor area': [80.5, 60.0], 'city': 'Old Town'}
  kinds = [('floor area', float), ('city', 'U8'), ('rooms', int)]
  array = np.array([(80.5, 'Old Town', 3), (60.0, 'Old Town', 2)], kinds)
  for rows in (cells, Frame(cells), array, WANTED, np.float32(WANTED)):
    assert_array_equal(tables.rows_of(rows, SPEC, 'y'), expected)
  for row in (array[0], WANTED[0], {**cells, 'rooms': 3, 'floor area': np.float32(80.5)}):
    assert_array_equal(tables.rows_of(row, SPEC, 'y'), expected[:1])
  numbers, one = SPEC._replace(shape=(1,), names=('a',)), {'a': [1.5, None, np.nan]}
  assert_array_equal(tables.rows_of(one, numbers, 'y', blank=True), [[1.5], [np.nan], [np.nan]])

"""Columns of any kind are told from their cells, and come back as they were written."""

import tracemalloc
from csv import reader

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import kstest

from diffusion_jax.data import cells, mixed, tables
from diffusion_jax.data.sources import measured
from tests.refusals import one_line

PEOPLE = """\
name,age,zip,joined,member,fare,height,class
Ann,22,00001,2020-01-31,yes,7.25,1.80,3
Bob,,00002,2020-02-01,no,71.2833,1.75,1
"Cy, jr",40,00003,,yes,8,1.90,2
Di,38,?,1969-12-31,yes,-0.5,1.60,3
"""


@pytest.fixture
def csv(tmp_path):
  def write(text, name='a.csv'):
    path = tmp_path / name
    path.write_text(text)
    return str(path)

  return write


def read(path, **fields):
  return mixed.table(path, **{'test_fraction': 0.0, 'missing': 'unknown', **fields})


def written(source, x=None):
  facts = measured(source)
  x = facts.x.decode(facts.x.encode(source.x)) if x is None else x
  return facts.x, tables.as_csv(mixed.texts_of(facts.x, x))


def test_cells_of_every_kind_come_back_as_they_were_written(csv, capsys):
  source = read(csv(PEOPLE), categories=('class',))
  spec, text = written(source)
  kinds = dict(zip(spec.names, spec.kinds, strict=True))
  numbers = {'age': 'number', 'fare': 'number', 'height': 'number', 'joined': 'date'}
  assert kinds == dict.fromkeys(spec.names, 'category') | numbers
  assert spec.categories[spec.names.index('zip')] == ('00001', '00002', '00003')
  assert text == PEOPLE.replace('?', '')
  said = capsys.readouterr().out
  assert 'a.csv: 4 rows of 8 columns\n' in said
  assert '  age     whole number, 22 to 40; 25.0% missing\n' in said
  assert '  joined  date; 25.0% missing\n' in said
  assert '  zip     category, 3: 00001, 00002, 00003; 25.0% missing\n' in said


def test_models_see_missing_cells_as_nan_and_numbers_as_normal(csv):
  spec = measured(source := read(csv(PEOPLE))).x
  z = spec.encode(source.x)
  assert_array_equal(np.isnan(z), np.isnan(source.x))
  at = spec.names.index('age')
  assert_array_equal(np.argsort(z[[0, 2, 3], at]), [0, 2, 1])
  member = spec.names.index('member')
  assert_array_equal(z[:, member], [1, 0, 1, 1])


def test_whether_a_cell_is_there_is_drawn(csv):
  source = mixed.table(csv(PEOPLE), test_fraction=0.0)
  assert_array_equal(source.x, read(csv(PEOPLE), missing='drawn').x)
  spec = measured(source).x
  assert spec.names[-3:] == ('age present', 'zip present', 'joined present')
  at, there = spec.names.index('age'), spec.names.index('age present')
  assert_array_equal(source.x[:, there], [1, 0, 1, 1])
  z = np.nan_to_num(spec.encode(source.x))  # as drawn, where each cell has a number
  x = spec.decode(z)
  assert np.isnan(x[1, at]) and np.isfinite(x[0, at])
  assert 'present' not in written(source, x)[1]
  known = mixed.known_cells('rows', {'age': ['30', '']}, [2, 3], spec)
  assert_array_equal(known[:, there], [1, np.nan])


WRITTEN = """\
when|to|share|price|size
2026-11-30 14:05:00|2026-11-30T14:05Z|12%|$1,234.5|1.234,5
1969-12-31 23:59:59|1970-01-01T00:00Z|-3.5%|$0.5|-7
2026-11-30 14:05:01|2026-12-01T00:01Z|7%|-$12|12,25
"""


def test_times_and_marked_numbers_come_back_as_they_were_written(csv, capsys):
  source = read(csv(WRITTEN))
  spec, text = written(source)
  assert spec.kinds == ('time', 'time', 'number', 'number', 'number')
  assert_array_equal(source.x[1], [-1, 0, -3.5, 0.5, -7])  # seconds, minutes
  assert_array_equal(source.x[0, 3:], [1234.5, 1234.5])
  assert cells_of(text, ',') == cells_of(WRITTEN, '|')
  assert '  when   time, written as YYYY-MM-DD HH:MM:SS\n' in capsys.readouterr().out
  drawn = spec.decode(spec.encode(source.x) + 0.3)  # also between those that were seen
  assert_array_equal(drawn[:, :2], np.rint(drawn[:, :2]))
  known = mixed.known_cells(
    'rows', {'price': ['$1,000', '7'], 'to': ['', '1970-01-02T00:00Z']}, [2, 3], spec
  )
  assert_array_equal(known[:, [1, 3]], [[np.nan, 1000], [1440, 7]])
  with pytest.raises(ValueError, match='not a time such as YYYY-MM-DDTHH:MM'):
    mixed.known_cells('rows', {'to': ['1970-01-02 00:00']}, [2], spec)


def cells_of(text, delimiter):
  return [*reader(text.splitlines(), delimiter=delimiter)]


def test_small_numbers_keep_their_digits(csv):
  _, text = written(read(csv('a,b\n1.25e-13,1\n2e-20,2\n-3.5e-9,3\n')))
  assert [float(line.split(',')[0]) for line in text.splitlines()[1:]] == pytest.approx(
    [1.25e-13, 2e-20, -3.5e-9], rel=1e-6
  )


def test_a_cell_that_is_known_to_be_missing_is_any(csv):
  """Else its level would tell, and the cells of samples would all be there."""
  rng = np.random.default_rng(0)
  lines = [
    f'{x:.4f},{"" if x > 0 else "uvw"[i % 3]},{"" if x < 0 else i}'
    for i, x in enumerate(rng.normal(size=3000))
  ]
  source = read(csv('a,b,c\n' + '\n'.join(lines)), missing='drawn')
  spec = measured(source).x
  z = spec.encode(source.x)
  assert not np.isnan(z).any()
  assert_array_equal(z, spec.encode(source.x))
  gone = source.x[:, 0] > 0
  shares = np.bincount(z[gone, 1].astype(int), minlength=3) / gone.sum()
  assert np.all(abs(shares - 1 / 3) < 4.5 * np.sqrt(0.25 / gone.sum()))
  assert kstest(z[~gone, 2], 'norm').pvalue > 1e-3  # pyright: ignore
  assert abs(np.corrcoef(z[~gone, 0], z[~gone, 2])[0, 1]) < 4.5 / np.sqrt((~gone).sum())
  assert_array_equal(np.isnan(spec.decode(z)), np.isnan(source.x))
  known = mixed.known_cells('rows', {'a': ['1']}, [2], spec)
  assert_array_equal(np.isnan(spec.encode(known)), np.isnan(known))  # what is drawn is not known


def test_a_file_without_a_header_and_one_of_numbers_alone(csv, capsys):
  source = read(csv('1;x\n2;y\n3;x\n'))
  assert source.spec.names == ('column1', 'column2') and len(source) == 3
  assert 'without a header' in capsys.readouterr().out
  assert read(csv('a,b\n1,2\n3,4\n5,6\n', 'b.csv')).spec.kinds == ('number', 'number')
  assert read(csv('u,x\nv,y\nu,y\nv,x\n', 'd.csv')).spec.names == ('column1', 'column2')
  assert read(csv('1,x\n?,y\n3,NA\n', 'e.csv')).spec.names == ('column1', 'column2')
  assert len(read(csv('2019,2020\n1,2\n3,4\n5,6\n', 'c.csv'), header=True)) == 3


ODD = {
  'one row': ('a,b\n1,x\n', {}, '1 rows'),
  'a constant': ('a,b\n1,x\n1,y\n1,z\n', {}, 'category, 1: 1'),
  'categories alone': ('a,b\nu,x\nv,y\nw,z\n', {}, 'category, 3: u, v, w'),
  'a thousand categories': (
    'a,b\n' + ''.join(f'c{i % 1000},{i}\n' for i in range(3000)),
    {},
    'category, 1,000: c0, c1, c10, c100, c101, …',
  ),
  'a hundred columns': (
    ','.join(f'c{i}' for i in range(100)) + '\n' + (','.join('123') + ',' + '4,' * 96 + '5\n') * 3,
    {},
    '3 rows of 100 columns',
  ),
  'exponents': ('a\n1e-3\n2.5\n1E2\n', {}, 'number, 3 decimals, 0.001 to 100'),
  'an id': (
    'id,b\n' + ''.join(f'k{i},{i % 3}\n' for i in range(60)),
    {},
    'columns are left out, such as id: it has 60 different texts in 60 rows',
  ),
  'a column without a value': ('a,b\n1,\n2,NA\n3,?\n', {}, 'such as b: it has no value'),
  'a column without a name': (',b\n0,1\n1,2\n2,5\n', {}, '1 of 2 columns are left out'),
}


@pytest.mark.parametrize('name', ODD)
def test_odd_tables_are_read(csv, capsys, name):
  text, fields, said = ODD[name]
  spec, _ = written(source := read(csv(text, f'{name}.csv'), **fields))
  assert said in capsys.readouterr().out
  assert_array_equal(spec.decode(spec.encode(source.x)), source.x)


WRONG = {
  'an id that is named': ('id\n' + ''.join(f'k{i}\n' for i in range(60)), {'x': ('id',)}, 'leave'),
  'a text among numbers': (
    'a\n' + ''.join(f'{i}\n' for i in range(30)) + 'x\n',
    {'x': ('a',)},
    "the text 'x': correct it",
  ),
  'no value': ('a,b\n1,\n2,\n', {'x': ('b',)}, 'has no value'),
  'no column': ('a,b\n1,2\n', {'x': ('c',)}, "has no column 'c'"),
  'a category that is no column': ('a,b\n1,2\n3,4\n', {'categories': ('c',)}, "no column 'c'"),
  'a short row': ('a,b\n1,2\n3\n', {}, 'row 3 has 1 cells'),
  'nothing': ('', {}, 'has no rows'),
  'no names': (' , \n1,2\n3,4\n', {}, 'no column has a name'),
  'a long row': ('a,b\n1,2\n3,4,5\n', {}, "with ',' in it must be in quotes"),
  'a huge number': ('a\n1\n2\n1e300\n', {'x': ('a',)}, 'beyond 1e+100'),
  'a header alone': ('a,b\n', {}, 'rows below it'),
  'infinity': ('a\n1\n2\n1e999\n', {'x': ('a',)}, 'beyond 1e+100'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be_read_gets_one_line(csv, name):
  text, fields, said = WRONG[name]
  path = csv(text)
  with one_line(said, path):
    read(path, **fields)


def test_a_category_that_only_the_test_file_has_is_not_known(csv, capsys):
  train = csv('a,b\n1,x\n2,y\n5,x\n')
  source = read(train, split='test', test_path=csv('a,b\n4,z\n3,x\n', 'test.csv'))
  assert_array_equal(source.x, [[4, np.nan], [3, 0]])
  assert "1 cells of column 'b' are not known, such as 'z'" in capsys.readouterr().out
  with pytest.raises(ValueError, match="row 2, column 'a': 'u' is not a number"):
    read(train, split='test', test_path=csv('a,b\nu,x\n3,x\n', 'wrong.csv'))


def test_a_cell_of_an_unknown_category_is_there(csv):
  """It is not known to models, which would read a missing cell as any of the categories."""
  path, other = csv('a,b\n1,x\n2,\n5,y\n'), csv('a,b\n4,z\n3,?\n2,x\n', 'test.csv')
  train = read(path, missing='drawn')
  test = read(path, missing='drawn', split='test', test_path=other)
  assert test.spec.names == ('a', 'b', 'b present')
  assert_array_equal(test.x, [[4, np.nan, 1], [3, np.nan, 0], [2, 0, 1]])
  assert_array_equal(mixed.of_columns(other, train.spec).x, test.x)
  seen = measured(train).x.encode(test.x)
  assert np.isnan(seen[0, 1]) and np.isfinite(seen[1:, 1]).all()


def test_rows_without_a_header_are_read_as_those_of_a_table_without_one(csv):
  without, rows = csv('1,x\n2,y\n5,x\n'), 'column1,column2\n1,x\n2,y\n'
  spec = read(without).spec
  for text in ('1,x\n2,y\n', rows):
    assert_array_equal(mixed.of_columns(csv(text, 'rows.csv'), spec).x, [[1, 0], [2, 1]])
  with_gap = read(csv('1,x\n2,\n5,x\n', 'gap.csv'), missing='drawn').spec
  assert with_gap.names == ('column1', 'column2', 'column2 present')
  assert_array_equal(mixed.of_columns(csv('4,x\n', 'row.csv'), with_gap).x, [[4, 0, 1]])
  with pytest.raises(ValueError, match="no column 'a'"):
    mixed.of_columns(without, read(csv('a,b\n1,x\n2,y\n', 'named.csv')).spec)


def test_given_cells_are_read_by_name(csv):
  spec = measured(read(csv(PEOPLE))).x
  known = mixed.read_known(csv('member,age\nyes,\n,41.5\n', 'known.csv'), spec)
  age, member = spec.names.index('age'), spec.names.index('member')
  assert_array_equal(known[:, [age, member]], [[np.nan, 1], [41.5, np.nan]])
  assert np.isnan(np.delete(known, [age, member], axis=1)).all()
  for text, said in {'ages\n3\n': "no column 'ages'", 'member\nmaybe\n': "'maybe' is not"}.items():
    with pytest.raises(ValueError, match=said):
      mixed.read_known(csv(text, 'wrong.csv'), spec)


def test_memory_does_not_grow_with_the_rows(csv, monkeypatch):
  """But for the numbers themselves, of 8 bytes each."""
  monkeypatch.setattr(cells.RowsOfFile.blocks, '__defaults__', (500,))

  def peak(count):
    path = csv('a,b,c\n' + f'{1.25},x,2020-01-01\n{2.5},y,2020-01-02\n{3},z,\n' * (count // 3))
    tracemalloc.start()
    source = read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - source.x.nbytes

  small = peak(3000)
  assert peak(12_000) < 1.2 * small + 8 * 12_000  # the order of the rows


def test_rows_are_read_as_cells_are(csv):
  """`open_rows` and `read_cells` agree on what both read."""
  path = csv(PEOPLE)
  rows = cells.open_rows(path)
  ((numbers, texts),) = rows.blocks()
  whole = cells.read_cells(path)
  assert dict(zip(rows.names, texts, strict=True)) == whole.columns and numbers == whole.rows

"""Files of tables as people have them are read as pandas and people read them."""

import pytest

from diffusion_jax.data.cells import read_cells

TABLES = (
  'a,b\n1,2\n3,4',
  'a;b\r\n1;2\r\n3;4\r\n',
  'a\tb\r1\t2\r3\t4\r',
  'a|b\n1|2\n3|4\n',
  'a b\n1 2\n3 4\n',
  '  a      b\n  1   2  \n 3  \t 4\n',
  'sep=;\r\na;b\r\n1;2\r\n3;4\r\n',
  '"sep=|"\na|b\n1|2\n3|4\n',
  'a,b\n1,2,\n3,4,\n',
  'a,b,\n1,2,\n3,4,\n',
  '\n  \n\na , b\n1, 2\n\n"3",4\n   \n',
  '\ufeff"a"; "b"\n"1";2\n3;"4"\n',
  ',a,b\n0,1,2\n1,3,4\n',
)


@pytest.mark.parametrize('text', TABLES)
def test_a_table_of_two_columns(tmp_path, text):
  (tmp_path / 'a.csv').write_bytes(text.encode())
  columns = read_cells(tmp_path / 'a.csv').columns
  assert {name: [*texts] for name, texts in columns.items()} == {'a': ['1', '3'], 'b': ['2', '4']}


# Other delimiters see one field of more characters than csv.field_size_limit().
WIDE = {f'column {i}': ['1'] for i in range(15_000)}
# What a file contains => its columns.
TEXTS = r"""
'"a, x\ny",c\n1,2\n' => {'a, x y': ['1'], 'c': ['2']}
'"a, b\nb";c\n1;2\n' => {'a, b b': ['1'], 'c': ['2']}
'a, m;b, s;c, %;d\n1,5;2;3;4\n' => {'a, m': ['1,5'], 'b, s': ['2'], 'c, %': ['3'], 'd': ['4']}
'a;b\n1,5;2,5\n3,5;4,5\n' => {'a': ['1,5', '3,5'], 'b': ['2,5', '4,5']}
'first name\nAda Lovelace\n' => {'first name': ['Ada Lovelace']}
'kind\nlot 12\n' => {'kind': ['lot 12']}
'"my a" b\n"x  y" 1\n' => {'my a': ['x y'], 'b': ['1']}
'a\n1\n""\n' => {'a': ['1', '']}
'height; in | cm\n1\n2\n' => {'height; in | cm': ['1', '2']}
','.join(WIDE) + '\n' + ','.join('1' for _ in WIDE) => WIDE
"""


@pytest.mark.parametrize('row', TEXTS.strip().split('\n'))
def test_a_delimiter_divides_most_rows(tmp_path, row):
  text, columns = map(eval, row.split(' => '))  # The rows are our own.
  (tmp_path / 'a.csv').write_text(text)
  found = read_cells(tmp_path / 'a.csv').columns
  assert {name: [*texts] for name, texts in found.items()} == columns


def test_rows_are_those_of_a_spreadsheet(tmp_path):
  (tmp_path / 'a.csv').write_text('sep=;\n\n"a\nb";c\n1;2\n\n3;4\n')
  assert read_cells(tmp_path / 'a.csv').rows == [4, 6]

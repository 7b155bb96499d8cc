import pytest

from diffusion_jax.report import results
from diffusion_jax.report.record import Curve, Run


@pytest.mark.parametrize('value, error, text', [
  (2.87324, 0.03704, '2.873 ± 0.037'),
  (1234.5678, 12.3, '1235 ± 12'),
  (0.984, 0.0056, '0.9840 ± 0.0056'),
  (3.1712345, None, '3.1712'),
  (1.0, 0.0, '1'),
  (float('nan'), 0.1, ''),
  (None, None, ''),
])  # fmt: skip
def test_a_value_has_the_places_of_its_error(value, error, text):
  assert results.with_error(value, error) == text


def test_columns_of_numbers_are_known():
  rows = [['name', 'value', 'note', 'empty'], ['a', '1,234', '5 of 6', '']]
  rows += [['b', '0.5 ± 0.1', '', ''], ['c', '', '7', '']]
  table = results.Table('caption', rows)
  assert [table.is_number(i) for i in range(4)] == [False, True, False, False]
  assert not table._replace(code=True).is_number(1)


def score(value):
  return {'value': value, 'error': None, 'note': ''}


def test_points_of_a_sweep_are_in_its_table_alone():
  points = [
    {'point': {'num_steps': n}, 'metrics': {'fd': score(1 / n)}} for n in (2, 4)
  ]
  found = [
    ('samples-a', {'points': points}),
    ('samples-a/num_steps=2', {'metrics': {'fd': score(0.5)}}),
    ('samples-b', {'metrics': {'fd': score(0.1)}}),
  ]
  tables = [part for part in results.parts(found) if part is not None]
  assert [table.rows for table in tables] == [
    [['metric', 'value'], ['fd', '0.1']],
    [['num_steps', 'fd'], ['2', '0.5'], ['4', '0.25']],
  ]


def test_runs_are_compared_by_what_any_has():
  a = Run('a', {}, {'loss': Curve([1, 2], [0.5, 0.25])}, [], [], [])
  bits = {'bits_per_dim': 2.5, 'standard_error': 0.1}
  speed = Curve([1, 2, 3], [1.0, 9.0, 2.0])
  b = Run('b', {}, {'images_per_second': speed}, [], [('elbo-test', bits)], [])
  names = results.final_names([a, b])
  assert names == ['loss', 'images_per_second', 'bits/dim, elbo-test']
  assert [results.final(a, name) for name in names] == ['0.25', '', '']
  assert [results.final(b, name) for name in names] == ['', '2', '2.50 ± 0.10']

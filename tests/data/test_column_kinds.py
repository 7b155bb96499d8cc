"""Kinds of columns are told from their cells."""

import pytest

from diffusion_jax.data.column_kinds import ColumnCells


def kind(*texts):
  cells = ColumnCells()
  cells.add(texts)
  return cells.kind(len(texts), False)


def test_a_notation_is_of_all_cells_of_a_column():
  """A text with several readings has that of the others; 1,234 alone is a thousand."""

  assert kind('1,234', '5,678', '12,345').notation == '1,000.5'
  assert kind('1,234', '0,5', '7').notation == '1000,5'
  assert kind('1,234', '999', '5').high == 1234
  assert kind('1,234', '1234', '5').notation == '1000,5'
  assert kind("1'000", "2'000.5", '3').notation == "1'000.5"
  assert kind('5 €', '7 €', '1.000 €').low == 1.0
  assert kind('2026-11-30 14:05:00.25', '2026-11-30 14:05:01', '2026-11-30 14:05:02').decimals == (
    0,
    2,
  )
  for texts in (
    ['1,234', '5%', '7'],
    ['1.5', '2,5', '3'],
    ['00,5', '1,5', '2,5'],
    ['1', '2 USD', '3'],
  ):
    assert kind(*texts).kind == 'category'
  # few texts among numbers, as in 0, 1, 2, 3+
  assert kind('0', '1', '2', '3+').categories == ('0', '1', '2', '3+')
  many = [f'{i:02}/11/2026' for i in range(60)]
  mixed_times = [f'2026-11-30 14:{i:02}' for i in range(30)] + [
    f'2026-11-30T14:{i:02}' for i in range(30)
  ]
  for texts, said in ((many, 'write dates as'), (mixed_times, 'several ways')):
    with pytest.raises(ValueError, match=said):
      kind(*texts)

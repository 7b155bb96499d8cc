"""Numbers and times are written back as they were read."""

import datetime

import pytest

from diffusion_jax.data import notations

NUMBERS = {
  '1,234,567.25': (1234567.25, ',', '.'),
  '1.234.567,25': (1234567.25, '.', ','),
  '-1 234,5': (-1234.5, ' ', ','),
  "12'000": (12000.0, "'", '.'),
  '$-1,000': (-1000.0, ',', '.'),
  '12,5': (12.5, '', ','),
  '0,123': (0.123, '', ','),
  '3.5 %': (3.5, '', '.'),
}


@pytest.mark.parametrize('text', NUMBERS)
def test_a_number_is_read_and_written_in_its_notation(text):
  value, thousands, mark = NUMBERS[text]
  found = notations.readings(text)
  (notation,) = [n for n in found if f'1{thousands}000{mark}5' in n]
  assert found[notation].value == value and notations.is_notation('number', notation)
  back = notations.written(value, found[notation].decimals, found[notation].decimals, notation)
  assert back == text.replace('$-', '-$') and notations.number(back, notation) == value


@pytest.mark.parametrize(
  'text', ['12 USD', '1,23,4', '1.2.3', '00,5', '--5%', '10.0.0.1', '+-5%', '', '5%%']
)
def test_other_texts_are_no_numbers(text):
  assert not notations.readings(text)


TIMES = [
  '2026-11-30 14:05:00',
  '2026-11-30T14:05:00Z',
  '1969-12-31 23:59:59.125',
  '2026-11-30 14:05:00.050',
  '2026-11-30 14:05',
  '0001-01-01T00:00:00+01:00',
  '2026-12-31 23:59:59.999999 UTC',
  '9999-12-31 23:59:59',
]


@pytest.mark.parametrize('text', TIMES)
def test_a_time_is_its_seconds_or_minutes_and_comes_back(text):
  found = notations.time(text)
  assert found is not None
  notation, value, digits = found
  clock = datetime.datetime.fromisoformat(
    text[:26].removesuffix(' UTC').removesuffix('+01:00').removesuffix('Z')
  )
  passed = (clock - datetime.datetime(1970, 1, 1)).total_seconds()
  assert value == pytest.approx(passed if ':SS' in notation else passed / 60, abs=1e-4)
  assert notations.written_time(value, digits, notation) == text
  assert notations.is_notation('time', notation) and not notations.is_notation('number', notation)


@pytest.mark.parametrize(
  'text', ['2026-02-30 10:00', '2026-11-30 25:00', '30.11.2026 10:00', '14:05:00']
)
def test_other_texts_are_no_times(text):
  assert notations.time(text) is None

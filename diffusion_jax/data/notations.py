"""How numbers and times are written in cells: 1,234.50 or 12 %, 2026-11-30 14:05:00.

A notation is an example: '1,000.5%' is of numbers with commas between thousands, a decimal point
and a per cent sign, and 'YYYY-MM-DD HH:MM:SS' of times. '' is of plain numbers, such as 1234.5
and 1e-3.
"""

import datetime
import decimal
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

NUMBER = re.compile(r'[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,9})?', re.ASCII | re.IGNORECASE)
MOST_DECIMALS = 12
_EPOCH = datetime.datetime(1970, 1, 1)
# Marks between thousands and before decimals; where a text has several readings, the first.
_MARKS = ('', '.'), (',', '.'), ('', ','), ('.', ','), (' ', '.'), (' ', ','), ("'", '.')
_WHOLE = {
  (thousands, mark): re.compile(
    (rf'(\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})*)' if thousands else r'(\d+)')
    + rf'(?:{re.escape(mark)}(\d+))?',
    re.ASCII,
  )
  for thousands, mark in _MARKS
}
_UNITS = r'[%$€£¥]?'
_MARKED = re.compile(rf"([+-]?)({_UNITS} ?)([+-]?)(\d[\d.,' ]*?)( ?{_UNITS})", re.ASCII)
_EXAMPLE = re.compile(rf"({_UNITS} ?)1([,. ']?)000([.,])5( ?{_UNITS})", re.ASCII)
_TIME = re.compile(
  r'(\d{4}-\d\d-\d\d)([ T])(\d\d:\d\d)(?:(:\d\d)(?:\.(\d{1,6}))?)?( ?(?:Z|UTC|[+-]\d\d:?\d\d)?)',
  re.ASCII,
)
_TIMES = re.compile(r'YYYY-MM-DD([ T])HH:MM(:SS)?( ?(?:Z|UTC|[+-]\d\d:?\d\d)?)', re.ASCII)


class Reading(NamedTuple):
  """A number and its decimals, in one of the notations that its text may have."""

  value: float
  decimals: int


@functools.lru_cache(2**14)
def readings(text: str) -> Mapping[str, Reading]:
  """Returns {notation: number} of a text that is no plain number; {} where it is none."""
  match = _MARKED.fullmatch(text)
  if not match or match[1] and match[3]:
    return {}
  sign, before, after = match[1] or match[3], match[2], match[5]
  found = {}
  for (thousands, mark), pattern in _WHOLE.items():
    whole = pattern.fullmatch(match[4])
    if whole and not is_code(whole[1]):
      plain, digits = whole[1].replace(thousands, ''), whole[2] or ''
      value = float(f'{sign}{plain}.{digits or 0}')
      found[f'{before}1{thousands}000{mark}5{after}'] = Reading(value, len(digits))
  return found


def number(text: str, notation: str) -> float | None:
  """Returns the number of a text in a notation, or plain; None for another text."""
  if notation and (found := readings(text).get(notation)):
    return found.value
  return float(text) if NUMBER.fullmatch(text) else None


def plain_fits(notation: str, has_decimals: bool, largest: float) -> bool:
  """Returns whether plain numbers of a column, up to a size, are of a notation, too."""
  match = _EXAMPLE.fullmatch(notation)
  if not match or match[1] or match[4]:
    return False
  return (match[3] == '.' or not has_decimals) and (not match[2] or largest < 1000)


def is_notation(kind: str, notation: str) -> bool:
  """Returns whether a text is a notation of numbers or of times."""
  if kind == 'time':
    return bool(_TIMES.fullmatch(notation))
  return not notation or kind == 'number' and bool(_EXAMPLE.fullmatch(notation))


def is_code(text: str) -> bool:
  """Returns whether a plain number begins with a 0 that a number would lose, as 00001."""
  digits = text.lstrip('+-')
  return digits[:1] == '0' and digits[1:2].isdigit()


def days(text: str) -> int | None:
  """Returns the days from 1970 to a date, None for another text."""
  if len(text) != 10 or text[4] != '-':
    return None
  try:
    return (datetime.date.fromisoformat(text) - _EPOCH.date()).days
  except ValueError:
    return None


def decimals(text: str) -> int:
  """Returns how many decimals a plain number has, also 1e-3."""
  if 'e' in text or 'E' in text:
    return max(0, -int(decimal.Decimal(text).as_tuple().exponent))
  return len(text.partition('.')[2])


def written(value: float, least: int, most: int, notation: str = '') -> str:
  """Returns a number with a least and a most number of decimals; '' for NaN.

  With more than MOST_DECIMALS they are those that tell it from other numbers.
  """
  if value != value:
    return ''
  if most > MOST_DECIMALS:
    return repr(float(value) + 0.0)
  text = f'{value:.{most}f}'
  whole, point, digits = text.partition('.')
  digits = digits.rstrip('0')
  text = f'{whole}{point}{digits:0<{least}}' if digits or least else whole
  text = text if float(text) else text.removeprefix('-')
  if not notation:
    return text
  before, thousands, mark, after = _EXAMPLE.fullmatch(notation).groups()  # pyright: ignore
  sign = '-' * text.startswith('-')
  whole, point, digits = text.removeprefix('-').partition('.')
  whole = f'{int(whole):,}'.replace(',', thousands)
  return f'{sign}{before}{whole}{mark * bool(point)}{digits}{after}'


@functools.lru_cache(2**14)
def time(text: str) -> tuple[str, float, int] | None:
  """Returns (notation, value, decimals of its seconds) of a date with a time, or None.

  The value is in seconds from 1970 by that clock, or in minutes where it has none.
  """
  match = _TIME.fullmatch(text)
  if not match:
    return None
  day, mark, clock, seconds, digits, zone = match.groups()
  try:
    at = datetime.datetime.fromisoformat(f'{day}T{clock}{seconds or ""}')
  except ValueError:
    return None
  notation = f'YYYY-MM-DD{mark}HH:MM{":SS" * bool(seconds)}{zone}'
  unit = datetime.timedelta(seconds=1) if seconds else datetime.timedelta(minutes=1)
  return notation, (at - _EPOCH) // unit + float(f'0.{digits or 0}'), len(digits or '')


def written_time(value: float, digits: int, notation: str) -> str:
  """Returns the text of a time that `time` reads, with decimals of its seconds; '' for NaN."""
  if value != value:
    return ''
  mark, seconds, zone = _TIMES.fullmatch(notation).groups()  # pyright: ignore
  whole, rest = divmod(round(value * 10**digits), 10**digits)
  unit = datetime.timedelta(seconds=1) if seconds else datetime.timedelta(minutes=1)
  day, clock = (_EPOCH + whole * unit).isoformat().split('T')
  text = day + mark + (clock if seconds else clock[:5])
  return text + f'.{rest:0{digits}}' * bool(digits) + zone

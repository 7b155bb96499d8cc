"""Words by which users call classes.

`#2` is the class number 2, of any data. Another word is the name of a class or, where no name is a
number, a number. So data with the classes 1, 2, 3 have no class 0, and their class 1 is #0.
"""

import decimal
import functools
import numbers
from collections.abc import Sequence

from diffusion_jax.data.cells import NUMBER
from diffusion_jax.ranges import near


def number_of(word: object, num_classes: int, names: Sequence[str] = ()) -> int:
  """Returns the number of the class that a user calls `word`; names: of all classes, or ().

  An integer, unlike a text, is a number; it is refused if it is also the name of another class.
  Raises ValueError.
  """
  text, names = str(word), (*names,)
  by_name, by_number = _by_name(text, names), _whole(text)
  is_number = isinstance(word, numbers.Real) and not isinstance(word, bool)
  if text[:1] == '#':
    chosen = _whole(text[1:])
  elif not _are_numbers(names):
    chosen = by_number if by_name is None else by_name
  elif is_number and by_name != by_number:
    raise ValueError(
      f"{text}: the names of these classes are numbers, and '{text}' is a name, '#{text}' a number"
    )
  else:
    chosen = by_name
  if chosen is None or not 0 <= chosen < num_classes:
    first, dash, last = text.partition('-')
    is_range = dash and first.isdecimal() and last.isdecimal()
    hint = '; name each class, as 3,4,5' * bool(is_range)
    raise ValueError(
      f'{text}{near(text, names)} is not a class: {listed(num_classes, names)}{hint}'
    )
  return chosen


def word_for(number: int, names: Sequence[str] = ()) -> str:
  """Returns a word for a class that `number_of` understands: its name if it has one."""
  if not names:
    return str(number)
  return f'#{number}' if names[number][:1] == '#' else names[number]


def listed(num_classes: int, names: Sequence[str] = ()) -> str:
  """Returns how the classes of data may be called, in words."""
  if not num_classes:
    return 'the data have no classes'
  some = ', '.join(names[:10]) + ', …' * (len(names) > 10)
  if _are_numbers((*names,)):
    return f'the classes have the names {some}, and #0..#{num_classes - 1} are their numbers'
  return f'the classes are 0..{num_classes - 1}' + f', {some}' * bool(names)


@functools.lru_cache(maxsize=8)
def _are_numbers(names):
  return any(map(NUMBER.fullmatch, names))


def _by_name(text, names):
  # A number may be written in another way than in the data, as 1 for 1.0.
  if text in names:
    return names.index(text)
  value = _value(text)
  if value is None or not _are_numbers(names):
    return None
  same = [i for i, name in enumerate(names) if _value(name) == value]
  return same[0] if len(same) == 1 else None


def _value(text):
  return decimal.Decimal(text) if NUMBER.fullmatch(text) else None


def _whole(text):
  value = _value(text)
  if value is None or value.adjusted() > 9 or value != value.to_integral_value():
    return None
  return int(value)

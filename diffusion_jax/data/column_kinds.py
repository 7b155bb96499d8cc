"""What a column of a table is, told from its cells: numbers, dates, times or categories."""

import collections
import decimal
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from diffusion_jax.data import notations
from diffusion_jax.data.cells import MISSING
from diffusion_jax.data.notations import NUMBER, days, is_code
from diffusion_jax.data.spec import ColumnKind

MOST_CATEGORIES = 5000  # of a column
FEW = 20  # different texts that any column may have, or one for two rows
LARGEST = 1e100  # a number, in size


class KindOfColumn(NamedTuple):
  """What a column is; see `ArraySpec`. low, high: of its numbers."""

  kind: ColumnKind
  categories: tuple[str, ...] = ()
  decimals: tuple[int, ...] = ()
  notation: str = ''
  low: float = np.nan
  high: float = np.nan


class _Numbers:
  # The range of numbers, and the least and the most of their decimals.

  def __init__(self):
    self.least, self.most, self.low, self.high = 10**9, 0, np.inf, -np.inf

  def add(self, value, places):
    self.least, self.most = min(self.least, places), max(self.most, places)
    self.low, self.high = min(self.low, value), max(self.high, value)

  def with_others(self, others):
    self.least, self.low = min(self.least, others.least), min(self.low, others.low)
    self.most, self.high = max(self.most, others.most), max(self.high, others.high)
    return self

  def kind(self, name, notation=''):
    if not max(-self.low, self.high) <= LARGEST:
      raise ValueError(f'has a number beyond {LARGEST:g}: correct it')
    return KindOfColumn(name, (), (self.least, self.most), notation, self.low, self.high)


class ColumnCells:
  """What is known of the cells of a column, of any length, in little memory."""

  def __init__(self):
    self.texts: dict[str, None] | None = {}  # Different ones; None if they are too many.
    self.count = self.missing = self.numbers = self.dates = self.timed = self.marked = 0
    self.codes = False
    self.plain = _Numbers()
    self.readings: dict[str, _Numbers] | None = None  # by the notations that all marked ones have
    self.times: dict[str, _Numbers] = {}
    self.other = ''  # the first text that is no plain number

  def add(self, texts: Iterable[str]) -> None:
    """Counts further cells."""
    for text, count in collections.Counter(texts).items():
      if text in MISSING:
        self.missing += count
        continue
      self.count += count
      if self.texts is not None:
        self.texts[text] = None
        if len(self.texts) > 10 * MOST_CATEGORIES:
          self.texts = None
      if NUMBER.fullmatch(text):
        self.numbers += count
        self.codes |= is_code(text)
        self.plain.add(float(text), notations.decimals(text))
      else:
        self.other = self.other or text
        self._add_other(text, count)

  def _add_other(self, text, count):
    if days(text) is not None:
      self.dates += count
    elif time := notations.time(text):
      notation, value, places = time
      self.times.setdefault(notation, _Numbers()).add(value, places)
      self.timed += count
    elif found := notations.readings(text):
      self.marked += count
      kept = dict.fromkeys(found) if self.readings is None else self.readings
      self.readings = {n: kept[n] or _Numbers() for n in found if n in kept}
      for notation, numbers in self.readings.items():
        numbers.add(*found[notation])

  def _of_numbers(self):
    # Returns the kind of a column that has only numbers, dates or times, or None.
    if self.numbers == self.count:
      return self.plain.kind('number')
    if self.numbers + self.marked == self.count:
      plain = self.plain
      largest = max(-plain.low, plain.high)
      for notation, numbers in (self.readings or {}).items():
        if not self.numbers or notations.plain_fits(notation, plain.most > 0, largest):
          return numbers.with_others(plain).kind('number', notation)
    if self.dates == self.count:
      return KindOfColumn('date', (), (0, 0))
    if self.timed == self.count and len(self.times) == 1:
      ((notation, numbers),) = self.times.items()
      return numbers.kind('time', notation)
    return None

  def kind(self, size: int, is_category: bool) -> KindOfColumn:
    """Returns what the column of `size` rows is; ValueError for one that cannot be drawn.

    is_category: it is said to be one.
    """
    if not self.count:
      raise ValueError('has no value: leave it out')
    different = None if self.texts is None else {category_key(text): text for text in self.texts}
    few = different is not None and len(different) <= 2
    if not is_category and not few and not (self.codes and self.numbers == self.count):
      if kind := self._of_numbers():
        return kind
      if self.numbers > 0.5 * self.count and (different is None or len(different) > FEW):
        raise ValueError(
          f'has {self.numbers:,} numbers, and the text {self.other!r}: correct it, empty the cell, '
          'or name the column in data.categories'
        )
    most = min(MOST_CATEGORIES, max(FEW, size // 2))
    if different is None or len(different) > most:
      count = f'more than {10 * MOST_CATEGORIES:,}' if different is None else f'{len(different):,}'
      raise ValueError(
        f'has {count} different texts in {size:,} rows, and {most:,} can be categories: '
        f'{self._hint()}'
      )
    order = sorted(different, key=lambda key: (isinstance(key, str), key))
    return KindOfColumn('category', tuple(different[key] for key in order))

  def _hint(self):
    if len(self.times) > 1:
      return (
        f'its times are written in several ways, {" and ".join(itertools.islice(self.times, 2))}'
      )
    if self.marked > 0.5 * self.count:
      return f'write its numbers in one way, as 1234.5, not {self.other}'
    return 'write dates as 2026-11-30, or leave it out of data.x, as names and numbers of rows'


def category_key(text: str) -> decimal.Decimal | str:
  """Returns what spellings of a category have in common: 1 and 1.0, but not 1 and 01."""
  return decimal.Decimal(text) if NUMBER.fullmatch(text) and not is_code(text) else text

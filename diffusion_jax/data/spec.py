"""What the data are: each array, how models see it, and facts such as the classes."""

import itertools
import math
import operator
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.data import directional, quantiles
from diffusion_jax.data.directional import Directional
from diffusion_jax.data.notations import MOST_DECIMALS, is_notation
from diffusion_jax.ranges import Count, Finite, NonNegative, Positive, Size

# Of a column; 'presence' is a category, whether the cell of another column is there.
ColumnKind = Literal['number', 'date', 'time', 'category', 'presence']
OF_NUMBERS = 'number', 'date', 'time'
PRESENT = ' present'  # what the name of such a column ends in


class ArraySpec(NamedTuple):
  """Describes one array of the data, without its batch.

  shape: such as (D,), (L, C), (H, W, C); channels last. levels: the array has
  integers 0..levels - 1, and models see them evenly spaced on [-1, 1]; 0: it
  has real numbers, and models see (x - mean) / std. mean, std: of the last
  axis, or one number for all; () is 0 and 1. low, high: the box that contains
  all numbers, of the last axis, or of its first numbers; () is unbounded.
  names: of the numbers of a table, see `data.tables`; () for other arrays.
  tokens: the levels are states without an order, such as words of a vocabulary; x is [L].

  kinds: of the columns of a table of numbers and categories (`data.mixed`), NaN where a cell
  is missing; () for other arrays. categories: the texts of each column, whose cells are
  their numbers from 0; () of a column of numbers, which models see by its knots and shares,
  as `quantiles.fitted` returns them. decimals: the least and the most
  that cells of the column have. notations: how its numbers are written, see `notations`.

  manifold: angles with a period, unit vectors [..., n], or unit quaternions [..., 4]
  (`data.directional`); None: numbers. period: of angles, which models see in radians.
  """

  shape: tuple[Size, ...]
  levels: Count = 0
  mean: tuple[Finite, ...] = ()
  std: tuple[Positive, ...] = ()
  low: tuple[Finite, ...] = ()
  high: tuple[Finite, ...] = ()
  names: tuple[str, ...] = ()
  tokens: bool = False
  kinds: tuple[ColumnKind, ...] = ()
  categories: tuple[tuple[str, ...], ...] = ()
  decimals: tuple[tuple[Count, ...], ...] = ()
  notations: tuple[str, ...] = ()
  knots: tuple[tuple[Finite, ...], ...] = ()
  shares: tuple[tuple[Positive, ...], ...] = ()
  manifold: Directional | None = None
  period: NonNegative = 0.0

  def as_json(self) -> Json:
    """Returns a dict, without what only tables, tokens and directions have if it is empty."""
    of_table = 'names', 'kinds', 'categories', 'decimals', 'notations', 'knots', 'shares'
    optional = 'tokens', *of_table, 'manifold', 'period'
    return {n: v for n, v in self._asdict().items() if v or n not in optional}

  @property
  def is_picture(self) -> bool:
    """Whether these are levels [H, W, C] of grey or of three colours."""
    return bool(self.levels) and len(self.shape) == 3

  @property
  def channels_first(self) -> bool:
    """Whether these seem to be planes [C, H, W], where last is right."""
    return len(self.shape) == 3 and self.shape[0] <= 4 < min(self.shape[1:])

  @property
  def is_text(self) -> bool:
    """Whether these are levels [L], bytes of text."""
    return bool(self.levels) and len(self.shape) == 1 and not self.tokens

  @property
  def noun(self) -> str:
    """What several of these are called: images, texts or examples."""
    return 'images' if self.is_picture else 'texts' if self.is_text else 'examples'

  @property
  def written(self) -> 'ArraySpec':
    """The values of files of samples, where all levels but tokens are 0..255."""
    return self._replace(levels=256) if self.levels and not self.tokens else self

  @property
  def affine(self) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) [1, ..., C] or [1, ...]: a batch of data is a + b x of models."""
    shape, half = [*[1] * len(self.shape), -1], (self.levels - 1) / 2.0
    unit = self.period / directional.TURN or 1.0
    a, b = (half, half) if self.levels else (self.mean or 0.0, self.std or unit)
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a.reshape(shape), b.reshape(shape)

  def encode(self, values: np.ndarray) -> np.ndarray:
    """Returns data [..., *shape] as models see them, float32."""
    if self.levels:
      x = values.astype(np.float32)
      x *= 2.0 / (self.levels - 1)  # in place is twice as fast as three arrays
      x -= 1.0
      return x
    if self.manifold:
      return directional.encode(values, self.manifold, self.period)
    if not self.mean:
      return np.asarray(values, np.float32)
    from scipy.special import ndtri

    x = np.array(values, np.float64)
    raw = x.copy()
    for i in self.numbers:
      x[..., i] = quantiles.to_normal(x[..., i], self.knots[i], self.shares[i])
    for i in (i for i, kind in enumerate(self.kinds) if kind == 'presence'):
      # A cell that is known to be missing is any: a level of its own would say that it is.
      column = self.names.index(self.names[i].removesuffix(PRESENT))
      u, count = uniform_of(raw, column), len(self.categories[column])
      other = np.floor(u * count) if count else ndtri(u)
      x[..., column] = np.where(raw[..., i] == 0.0, other, x[..., column])
    return ((x - self.mean) / self.std).astype(np.float32)

  def decode(self, x: np.ndarray) -> np.ndarray:
    """Returns x as files have it: uint8 in 0..255, tokens in uint16, or real numbers.

    Levels are rounded. Real numbers are float64 where float32 would round more
    than 1e-4 standard deviations. Raises ValueError for NaN where x has levels.
    """
    if self.levels:
      if np.isnan(x).any():
        raise ValueError('x has numbers that are nan, which are not levels')
      unit = (np.clip(np.asarray(x, np.float64), -1.0, 1.0) + 1.0) / 2.0
      level = np.rint(unit * (self.levels - 1))
      if self.tokens:
        return level.astype(np.uint16)
      return np.rint(level * (255.0 / (self.levels - 1))).astype(np.uint8)
    if self.period:
      return (np.asarray(x, np.float64) * (self.period / directional.TURN)).astype(np.float32)
    if not self.mean:
      return np.asarray(x, np.float32)
    values = np.asarray(x, np.float64) * self.std + self.mean
    if self.kinds:
      return self._cells(values)
    exact = np.any(np.abs(self.mean) > 1e3 * np.asarray(self.std))
    return values if exact else values.astype(np.float32)

  @property
  def numbers(self) -> tuple[int, ...]:
    """The columns of a table that have numbers, not categories; () of other arrays."""
    return tuple(i for i, kind in enumerate(self.kinds) if kind in OF_NUMBERS)

  def _cells(self, x):
    # Returns rows of a table: rounded numbers, numbers of categories, NaN in empty cells.
    for i, kind in enumerate(self.kinds):
      if kind in OF_NUMBERS:
        drawn = quantiles.from_normal(x[..., i], self.knots[i], self.shares[i])
        places = self.decimals[i][1]
        x[..., i] = np.round(drawn, places) if places <= MOST_DECIMALS else drawn
      else:
        x[..., i] = np.clip(np.rint(x[..., i]), 0, max(0, len(self.categories[i]) - 1))
    for i in (i for i, kind in enumerate(self.kinds) if kind == 'presence'):
      column = self.names.index(self.names[i].removesuffix(PRESENT))
      x[..., column] = np.where(x[..., i] == 0.0, np.nan, x[..., column])
    return x

  @property
  def encoded_box(self) -> tuple[np.ndarray, np.ndarray]:
    """low and high as models see them, [*shape], infinite without a bound."""
    ends = np.repeat([[-np.inf], [np.inf]], self.shape[-1], axis=1)
    ends[:, : len(self.low)] = self.low, self.high
    if self.mean:
      ends = (ends - self.mean) / self.std
    low, high = (np.broadcast_to(end, self.shape) for end in ends)
    return low, high

  @property
  def log_det(self) -> float:
    """log |d decode / d x|, summed over all numbers; 0 for levels."""
    if not self.std:
      return 0.0
    return float(np.sum(np.log(np.broadcast_to(self.std, self.shape))))

  def inside(self, values: np.ndarray) -> np.ndarray:
    """Returns which rows of data [N, *shape] are within the box, bool [N].

    The ends of the box are rounded as the data are, so that they are inside.
    """
    if not self.low:
      return np.ones(len(values), bool)
    bounded = values[..., : len(self.low)]
    kind = values.dtype if values.dtype.kind == 'f' else np.float64
    with np.errstate(over='ignore'):  # as float16, the largest is infinite
      low, high = np.asarray(self.low, kind), np.asarray(self.high, kind)
    within = (bounded >= low) & (bounded <= high)
    return np.all(within.reshape(len(values), -1), axis=1)


def uniform_of(rows: np.ndarray, seed: int) -> np.ndarray:
  """Returns a number in (0, 1) of each row [..., C], [...], which looks random and is its own."""
  bits = np.ascontiguousarray(rows, np.float64).view(np.uint64)
  odd = np.random.default_rng(seed).integers(0, 2**63, rows.shape[-1], np.uint64) * np.uint64(2)
  z = np.sum(bits * (odd + np.uint64(1)), axis=-1, dtype=np.uint64)  # modulo 2^64
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # of SplitMix64
    z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
  z ^= z >> np.uint64(31)
  return np.asarray((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def mean_and_std(x: np.ndarray, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean and the std of the last axis of x [N, ..., C], float64.

  [C] each, or [] of x [N]. The std of a number that is constant but for
  rounding, to 1e-12 of its size, is 0; whole numbers are not rounded. ddof: as in NumPy.
  """
  flat = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x
  first, size = np.float64(flat[0]), len(flat)
  # Parts of an array need little memory.
  parts = np.array_split(flat, -(-flat.size // 2**22))

  def over_parts(reduce, of):
    return reduce([reduce(of(part - first), axis=0) for part in parts], axis=0)

  # A constant number is exactly 0 from the first example on.
  mean = over_parts(np.sum, lambda apart: apart) / size
  most = over_parts(np.max, lambda apart: np.abs(apart - mean))
  unit = np.ldexp(1.0, np.frexp(most)[1])  # A power of 2 rounds nothing; squares of 1e-300 are 0.
  square = over_parts(np.sum, lambda apart: ((apart - mean) / unit) ** 2)
  mean, std = first + mean, unit * np.sqrt(square / (size - ddof))
  rounded = np.asarray(std <= 1e-12 * np.abs(mean))
  for i in np.argwhere(rounded):
    column = flat[(slice(None), *i)]
    rounded[tuple(i)] = np.any(column != np.rint(column)) or not np.any(column != column[0])
  # x may be of long doubles.
  return np.asarray(mean, np.float64), np.asarray(np.where(rounded, 0.0, std), np.float64)


def mean_and_std_of_known(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns `mean_and_std` of numbers of x [N, ..., C] that are not NaN, NaN for fewer than 2."""
  columns = x.reshape(-1, x.shape[-1]).T
  known = [column[~np.isnan(column)] for column in columns]
  pairs = [mean_and_std(each) if len(each) > 1 else (np.nan, np.nan) for each in known]
  mean, std = np.array(pairs, np.float64).T
  return mean, std


MOST_NUMBERS = 2**28  # the most numbers of one example, 1 GiB in float32
MOST_TOKENS = 2**16  # the states of uint16


def problem_of(values: ArraySpec) -> str:
  """Returns what does not fit in a description of an array, or ''."""
  shape, levels, names = values.shape, values.levels, values.names
  mean, std, low, high = map(len, (values.mean, values.std, values.low, values.high))
  most = f'{MOST_NUMBERS:,} numbers'
  if not shape or math.prod(shape) > MOST_NUMBERS:
    return f'shape={shape} is that of no array of up to {most}'
  most_levels = MOST_TOKENS if values.tokens else 256
  if levels == 1 or levels > most_levels:
    return f'levels={levels} is not 0 or 2..{most_levels}'
  if values.tokens and (not levels or len(shape) != 1):
    return f'tokens are levels [L], not {levels} levels {list(shape)}'
  last = shape[-1]
  if mean != std or mean not in (1, last) and not (levels or values.manifold):
    return f'mean has {mean} and std {std} numbers, the last axis of x {last}'
  if low != high or low > last:
    return f'low has {low} and high {high} numbers, the last axis of x {last}'
  if len(names) not in (0, last):
    return f'{len(names)} names are given for {last} numbers'
  if any(map(operator.ge, values.low, values.high)):
    return f'low={values.low} is not below high={values.high}'
  if bool(values.period) != (values.manifold == 'angles'):
    return f'period={values.period} does not fit manifold={values.manifold}'
  if values.manifold and (levels or mean or low or values.kinds):
    return f'manifold={values.manifold} has no levels, mean, box or columns'
  if values.manifold and (wrong := directional.problem_of_shape(shape, values.manifold)):
    return wrong
  return _problem_of_table(values) if values.kinds else ''


def _problem_of_table(values):
  parts = values.names, values.kinds, values.categories, values.decimals, values.notations
  fits = {len(part) for part in parts} == {values.shape[-1]} and len(values.shape) == 1
  fitted = len(values.knots) == len(values.shares) == len(values.mean)
  if not fits or not fitted or values.levels or len(values.mean) not in (0, len(values.kinds)):
    return f'the columns {", ".join(values.names)} do not describe rows of {values.shape}'
  for i, (name, kind) in enumerate(zip(values.names, values.kinds, strict=True)):
    if kind not in OF_NUMBERS and not values.categories[i]:
      return f'column {name!r} has no category'
    if not is_notation(kind, values.notations[i]):
      return f'column {name!r} is written as {values.notations[i]!r}'
    if kind == 'presence' and name.removesuffix(PRESENT) not in values.names:
      return f'column {name!r} says nothing of another one'
    if kind in OF_NUMBERS and len(values.decimals[i]) != 2:
      return f'column {name!r} has no two numbers of decimals'
    if kind in OF_NUMBERS and values.mean:
      knots, shares = np.asarray(values.knots[i]), values.shares[i]
      if not len(knots) or np.any(np.diff(knots) < 0.0) or len(shares) not in (0, len(knots)):
        return f'the knots of column {name!r} do not ascend'
  return ''


class Facts(NamedTuple):
  """The facts about the data that a model needs.

  x: the examples; num_classes: 0 without labels; context: real numbers that
  belong to each example, a condition; class_names: of the classes 0, 1, ... in
  turn, or () if the data do not name them; skipped: names of damaged pictures
  that are left out; examples, checksum: the number of the examples that a run
  is trained on, and their `checksum`; 0 and '' if unknown; lengths: how many examples
  have 1, 2, ... valid elements of the first axis of x, up to all of them; () of data
  without lengths, whose elements are all valid; gaps: NaN in x is a number that is not known.
  """

  x: ArraySpec
  num_classes: Count = 0
  context: ArraySpec | None = None
  class_names: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  examples: Count = 0
  checksum: str = ''
  lengths: tuple[Count, ...] = ()
  gaps: bool = False

  def as_json(self) -> Json:
    """Returns nested dicts, without what is empty but num_classes."""
    tree = {n: v for n, v in self._asdict().items() if v or n == 'num_classes'}
    arrays = {n: v.as_json() for n, v in tree.items() if isinstance(v, ArraySpec)}
    return tree | arrays


def check_facts(facts: Facts) -> None:
  """Raises ValueError for facts that no data have, perhaps of a stranger."""
  for name, values in (('x', facts.x), ('context', facts.context)):
    if wrong := values and problem_of(values):
      raise ValueError(f'{name}: {wrong}, which no data have')
  classes, names = facts.num_classes, len(facts.class_names)
  if classes > 10**6:
    raise ValueError(f'num_classes={classes} is more than a million')
  if names not in (0, classes):
    raise ValueError(f'{names} class_names are given for {classes} classes')
  if facts.lengths:
    check_lengths(facts)


def check_lengths(facts: Facts) -> None:
  """Raises ValueError for lengths that do not fit x, or that its examples cannot have."""
  x, lengths, rank = facts.x, facts.lengths, len(facts.x.shape)
  if x.is_picture or rank < 2 and not x.levels:
    raise ValueError(
      f'lengths are of sequences, x [n, T, ...] or bytes [n, L], and x is [n, '
      f'{", ".join(map(str, x.shape))}]: reshape numbers to [n, T, 1], or leave lengths out'
    )
  if len(lengths) != x.shape[0] or not sum(lengths):
    raise ValueError(
      f'lengths has {len(lengths)} counts of {sum(lengths)} examples, and x {x.shape[0]} elements'
    )


def valid_of(length: np.ndarray, size: int) -> np.ndarray:
  """Returns which of `size` elements are within each length [n], bool [n, size]."""
  return np.arange(size) < np.asarray(length)[:, None]


def expanded(valid: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Returns valid [n, T] as an array that broadcasts to x [n, T, ...]."""
  return valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim))


def without_padding(x: np.ndarray, length: np.ndarray | None, fill: float = 0.0) -> np.ndarray:
  """Returns x [n, T, ...], `fill` beyond each length [n] of real numbers and 0 of levels.

  length: None: x as it is.
  """
  if length is None:
    return x
  blank = np.asarray(fill if x.dtype.kind == 'f' else 0, x.dtype)
  return np.where(expanded(valid_of(length, x.shape[1]), x), x, blank)


# Fields that say which examples there are and where they may lie, not what their numbers mean.
OF_EXAMPLES = frozenset(('skipped', 'examples', 'checksum', 'low', 'high', 'gaps'))
# Names, which data may lack, and what one of them names.
_NAMES = {'names': 'column', 'class_names': 'class'}
_WORDS = {
  'levels': 'number of levels (0: real numbers)',
  'tokens': 'whether x has tokens',
  'lengths': 'whether examples have lengths',
  **_NAMES,
}


def misfits(
  theirs: Facts, ours: Facts, unread: Collection[str] = ()
) -> Iterator[tuple[str, Any, Any]]:
  """Yields (fact in words, theirs, ours) where the numbers of two data sets mean different things.

  All fields of Facts and of its arrays are compared but those of OF_EXAMPLES, `unread` ones such
  as 'context' or 'x.mean', and names that one of the two sets lacks. Of a list it is the first
  entry that differs.
  """
  # A shape or a name says more than a mean.
  pairs = sorted(_pairs(theirs, ours), key=lambda pair: pair[1] in ('mean', 'std'))
  for section, name, one, other in pairs:
    unnamed = name in _NAMES and not (one and other)
    if one == other or unnamed or not {section, name, f'{section}.{name}'}.isdisjoint(unread):
      continue
    of, number = f' of {section}' * bool(section), ''
    while name != 'shape' and isinstance(one, tuple) and isinstance(other, tuple):
      entries = enumerate(itertools.zip_longest(one, other))
      i, (one, other) = next((i, x) for i, x in entries if x[0] != x[1])
      number += f' {i}'
    yield f'{_WORDS.get(name, name)}{number}{of}', one, other


def reordered(theirs: Facts, ours: Facts) -> Iterator[tuple[str, Any, Any]]:
  """Yields (fact, theirs, ours) of columns and classes that are the same in another order."""
  for section, name, one, other in _pairs(theirs, ours):
    if name in _NAMES and one != other and sorted(one) == sorted(other):
      yield f'{section}.{name}' if section else name, one, other


def _pairs(theirs, ours):
  # Yields (x, context or '', field, theirs, ours) of all that is compared; no context has the
  # shape ().
  for name, one in theirs._asdict().items():
    other = getattr(ours, name)
    fields: dict[str, tuple[Any, Any]]
    if name == 'lengths':  # Each set has lengths of its own.
      fields, section = {name: (bool(one), bool(other))}, ''
    elif not isinstance(one or other, ArraySpec):
      fields, section = {name: (one, other)}, ''
    else:
      one, other, section = one or ArraySpec(()), other or ArraySpec(()), name
      fields = {n: (x, getattr(other, n)) for n, x in one._asdict().items()}
    for field, pair in fields.items():
      if field not in OF_EXAMPLES:
        yield section, field, *pair

"""Sources of arrays, read by index, with optional labels and conditions."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from diffusion_jax.data import directional, quantiles
from diffusion_jax.data.directional import Directional
from diffusion_jax.data.set_files import say_once
from diffusion_jax.data.spec import (
  ArraySpec,
  Facts,
  check_facts,
  check_lengths,
  expanded,
  mean_and_std,
  mean_and_std_of_known,
  valid_of,
  without_padding,
)
from diffusion_jax.data.sums import digest, of_array
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Finite, ImageShape, Positive, check_choice, check_value

T = TypeVar('T', bound=Callable)
# rng -> the order of an epoch, see `Source`
EpochOrder = Callable[[np.random.Generator], np.ndarray]


class Source(Protocol):
  """Describes the data sets that the pipeline reads.

  facts have a mean and std of real numbers, or `measured` adds them. Several
  threads read ahead from a source that is not in_memory. It may also have
  `checksum()`, a sum of what is stored; `read_labels(index)`, the labels [n] without
  the examples; `order`, which draws a permutation of 0..N - 1 for an epoch from
  a generator, to be read in blocks (None: a uniform one); and, if its examples are
  random, `redrawn(seed, epoch)`, the source whose row i of `read` is drawn for
  epoch[i].
  """

  @property
  def facts(self) -> Facts:
    """What the arrays are."""
    ...

  @property
  def in_memory(self) -> bool:
    """Whether `read` is fast, so that reading ahead is not needed."""
    ...

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {'x': [n, *facts.x.shape], ...}, as the data have it.

    'x' is uint8 if it has levels, and uint8 or uint16 if these are tokens. The source's
    other entries are 'label', int32 [n] in 0..num_classes - 1, 'context' [n, ...], 'text', n
    sentences, and with facts.lengths 'length', int [n], of whose elements x is; others may be
    anything.
    Raises ValueError that names a file that cannot be read.
    """
    ...


def checksum(source: Any) -> str:
  """Returns source.checksum(), a sum of what is stored, or '' without one."""
  return source.checksum() if hasattr(source, 'checksum') else ''


def read_labels(source: Any, index: np.ndarray) -> np.ndarray:
  """Returns the labels of examples, int32 [n], of a source that has labels."""
  if hasattr(source, 'read_labels'):
    return source.read_labels(index)
  return source.read(index)['label']


def labels_of(source: Source) -> np.ndarray | None:
  """Returns the labels of all examples, int32 [N]; None without labels."""
  if not source.facts.num_classes:
    return None
  return np.concatenate([read_labels(source, index) for index in blocks(len(source))])


def in_proportion(counts: np.ndarray, n: int) -> np.ndarray:
  """Returns n classes whose frequencies are those of counts [K], int32 [n].

  Nothing is random, and the first m of them have these frequencies too: example j of
  class k has the place (j + u_k) / counts_k, where u_k, evenly spread in [0, 1), are
  multiples of the golden ratio. So no class is late because it is rare, and each
  K of classes of equal counts have all of them.
  """
  counts = np.asarray(counts, np.float64)
  share, number = counts / counts.sum(), np.arange(len(counts))
  first = np.modf((number + 0.5) * (5**0.5 - 1.0) / 2.0)[0]
  # Places up to n + K have n examples at least, as each class lacks less than one.
  each = np.where(counts > 0.0, np.ceil(share * (n + len(counts))), 0.0).astype(np.int64)
  label = np.repeat(number, each)
  j = np.arange(len(label)) - np.repeat(np.cumsum(each) - each, each)
  place = (j + first[label]) / counts[label]
  return label[np.argsort(place, kind='stable')[:n]].astype(np.int32)


def order_of(source: object) -> EpochOrder | None:
  """Returns source.order, or None without one; see `Source`."""
  return getattr(source, 'order', None)


def redrawn(source: Any, seed: int, epoch: np.ndarray) -> Source:
  """Returns source.redrawn(seed, epoch), or a source whose examples stay."""
  return source.redrawn(seed, epoch) if hasattr(source, 'redrawn') else source


def drawn_anew(source: Source) -> bool:
  """Returns whether each epoch of training has other examples, by the first few."""
  index = np.arange(min(8, len(source)))
  first, second = (redrawn(source, 0, np.full(len(index), epoch)).read(index) for epoch in (0, 1))
  return any(not np.array_equal(first[name], second[name]) for name in first)


def states(facts: Callable[..., Facts | None]) -> Callable[[T], T]:
  """Marks a constructor whose facts follow from its parameters.

  Programs then need not read the data to know them. facts(**parameters) returns
  them.
  """

  def mark(constructor):
    constructor.stated_facts = facts
    return constructor

  return mark


def in_batches(source: Source, size: int) -> Iterator[np.ndarray]:
  """Yields all examples of a source in order, [<= size, ...]."""
  for index in blocks(len(source), size):
    yield source.read(index)['x']


def content_sum(source: Source, count: int | None = None) -> str:
  """Returns a sum of the first `count` examples, or of all for None.

  The sum of all is the source's `checksum`; a source without one is read.
  """
  if count is None and (total := checksum(source)):
    return total
  return _sum_of(source, np.arange(len(source) if count is None else count))


def facts_sum(source: Source) -> str:
  """Returns a sum by which other data are noticed, without reading all of a large set.

  It is the source's `checksum`, or of all examples in memory, or of MOST_MEASURED random ones of a
  larger set; '' if `read` gives other examples each time.
  """
  if total := checksum(source):
    return total
  first = np.arange(min(8, len(source)))
  if _sum_of(source, first) != _sum_of(source, first):
    return ''
  most = len(source) if source.in_memory else MOST_MEASURED
  if most < len(source):
    say_once(
      f'note: the data are compared with those of the run by {most:,} of {len(source):,} examples: '
      'a checksum() of the source would be of all'
    )
  return _sum_of(source, some_of(source, most))


def _sum_of(source, index):
  def parts():
    yield b'%d' % len(source)
    for rows in blocks(len(index)):
      for name, array in sorted(source.read(index[rows]).items()):
        yield name.encode()
        yield np.asarray(array)

  return digest(parts())


def blocks(count: int, size: int = 1000) -> Iterator[np.ndarray]:
  """Yields the indices 0..count - 1, `size` at a time."""
  for start in range(0, count, size):
    yield np.arange(start, min(start + size, count))


def some_of(source: Sized, most: int) -> np.ndarray:
  """Returns the indices of at most `most` random examples, sorted.

  They are the same each time, and the first of an epoch of a source with an order.
  """
  rng, draw = np.random.default_rng(0), order_of(source)
  order = draw(rng) if draw else rng.permutation(len(source))
  return np.sort(order[:most])


def pictures(
  shape: tuple[int, ...], num_classes: int = 0, class_names: Iterable[str] = ()
) -> Facts:
  """Returns the facts of pictures of `shape` with 256 levels."""
  return Facts(ArraySpec(tuple(shape), 256), num_classes, class_names=tuple(class_names))


def facts_of_fields(
  image_shape: ImageShape, num_classes: int = 0, x_column: str = '', **others: object
) -> Facts | None:
  """Returns the facts of a set whose fields say what the pictures are.

  They do not say what a column of numbers is: None.
  """
  return None if x_column else pictures(image_shape, num_classes)


MOST_MEASURED = 10_000  # examples
LARGEST = 1e37  # samples, which may be larger, are float32


def measured(source: Source, one_scale: bool = False) -> Facts:
  """Returns the facts of a source with mean and std of its real numbers, unless it gives them.

  All examples in memory are measured, or MOST_MEASURED random ones of a larger set. one_scale:
  all numbers of x have one std. Raises ValueError for numbers that are not finite, a coordinate
  that never changes, an example outside the box, and facts that no data have.
  """
  x, context = source.facts.x, source.facts.context
  if one_scale and (x.levels or x.mean or x.kinds or x.manifold):
    given = f'has {x.levels} levels' if x.levels else 'comes with its mean and std'
    given = 'has the columns of a table, each by its own quantiles' if x.kinds else given
    given = f'has {x.manifold}, which are not scaled' if x.manifold else given
    raise ValueError(f'one_scale=True is for real numbers that are measured, and x {given}')
  if x.levels and context is None:
    return source.facts
  if isinstance(source, ArraySource) and source.in_memory:
    arrays = source.read(slice(None))  # without a copy
  else:
    is_held = source.in_memory and not order_of(source)  # A simulator draws it.
    arrays = source.read(some_of(source, len(source) if is_held else MOST_MEASURED))
  if not x.levels:
    elements = valid_elements(arrays, source.facts)
    check_box(x, elements)
    if x.kinds:
      x = _fitted(x, elements)
    elif not x.manifold:
      x = _standardised(x, elements, 'x', one_scale, source.facts.gaps)
  if context is not None and not context.levels:
    context = _standardised(context, arrays['context'], 'context')
  facts = source.facts._replace(x=x, context=context)
  check_facts(facts)
  return facts


def valid_elements(arrays: dict[str, np.ndarray], facts: Facts) -> np.ndarray:
  """Returns the examples that a source has read, or of lengths all their elements [M, ...]."""
  x = arrays['x']
  return x[valid_of(arrays['length'], x.shape[1])] if facts.lengths else x


def check_box(x: ArraySpec, values: np.ndarray) -> None:
  """Raises ValueError for an example outside the box of x."""
  outside = ~x.inside(values)
  if outside.any():
    first = ', '.join(f'{v:.6g}' for v in values[outside][0].ravel()[:8])
    raise ValueError(
      f'{outside.sum()} of {len(values)} {"examples" if values.ndim > len(x.shape) else "elements"}'
      f' are outside bounds, such as [{first}]: widen bounds, or leave them out'
    )


def _fitted(values, array):
  # Of a table: the knots of its columns of numbers, which models see as a standard normal's.
  count = len(values.kinds)
  curves: list[tuple[tuple[float, ...], tuple[float, ...]]] = [((), ()) for _ in range(count)]
  for i in values.numbers:
    known = array[np.isfinite(array[:, i]), i]
    if not len(known):
      raise ValueError(f'column {values.names[i]!r} has no number in the training split')
    curves[i] = quantiles.fitted(known)
  knots, shares = zip(*curves, strict=True)
  return values._replace(mean=count * (0.0,), std=count * (1.0,), knots=knots, shares=shares)


def _standardised(values, array, name, one_scale=False, gaps=False):
  check_finite(array, name, gaps=gaps)
  if len(array) < 2:
    raise ValueError(f'{name} has one example: it has no standard deviation')
  if gaps and (empty := np.isnan(array).reshape(-1, array.shape[-1]).all(axis=0)).any():
    raise ValueError(f'{name} has only gaps at {np.argmax(empty)} of its last axis: leave it out')
  if (largest := max(float(np.nanmax(array)), -float(np.nanmin(array)))) > LARGEST:
    raise ValueError(
      f'{name} has numbers up to {largest:.6g}: take a unit in which they are below {LARGEST:g}'
    )
  if values.mean or values.std:
    check_value(f'{name}: mean', values.mean, tuple[Finite, ...])
    check_value(f'{name}: std', values.std, tuple[Positive, ...])
    return values
  mean, std = mean_and_std_of_known(array) if gaps else mean_and_std(array)
  is_category = np.array(['=' in each for each in values.names] or [False] * len(mean), bool)
  for i in np.flatnonzero((std == 0.0) & ~is_category)[: 0 if one_scale and std.any() else 1]:
    place = repr(values.names[i]) if values.names else f'{i} of its last axis'
    raise ValueError(f'{name} never changes at {place} ({mean[i]:.6g}): leave this number out')
  if one_scale:
    std = np.full_like(std, np.sqrt(np.mean(std[~is_category] ** 2)))
  mean[is_category], std[is_category] = 0.0, 1.0  # They stay 0 and 1.
  if (smallest := std.min()) < 1.0 / LARGEST:
    raise ValueError(
      f'{name} has a standard deviation of {smallest:.6g}: take a unit in which it is above '
      f'{1.0 / LARGEST:g}'
    )
  return values._replace(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def check_examples(arrays: dict, facts: Facts) -> dict[str, np.ndarray]:
  """Returns what a source has read; raises ValueError if it is not its facts.

  Levels must be uint8, or uint16 of tokens, below their number; real numbers finite, and labels
  0..num_classes - 1. What pads examples with lengths becomes 0.
  """
  classes = facts.num_classes
  label = np.asarray(arrays.get('label', -1)) if classes else np.zeros(1)
  if label.size and not 0 <= label.min() <= label.max() < max(1, classes):
    given = f'{label.min()}..{label.max()}' if 'label' in arrays else 'none'
    raise ValueError(
      f'num_classes={classes} needs labels in 0..{classes - 1}, and the data '
      f'have {given}: give them, or set num_classes=0'
    )
  for name, values in (('x', facts.x), ('context', facts.context)):
    if values is None:
      continue
    if not isinstance(arrays, dict) or name not in arrays:
      raise ValueError(f'read must return a dict with {name!r}, got {type(arrays).__name__}')
    array = arrays[name]
    kind, right = 'float', array.dtype.kind in 'fiu'
    if values.levels:
      own = ('uint8', 'uint16')[: 1 + values.tokens]
      kind, right = ' or '.join(own), array.dtype in own
    if not right or array.shape[1:] != tuple(values.shape):
      raise ValueError(
        f'{name} must be {kind} [n, {", ".join(map(str, values.shape))}], got '
        f'{array.dtype} {list(array.shape)}: {ADVICE}'
      )
    if values.levels and array.size and (most := array.max()) >= values.levels:
      raise ValueError(f'{name} has the level {most}, and its levels are 0..{values.levels - 1}')
    if name == 'x':
      check_channels(values)
      if facts.lengths:
        check_lengths_of(arrays.get('length'), *array.shape[:2])
        arrays = arrays | {'x': without_padding(array, arrays['length'])}
    if values.manifold:
      directional.check(arrays[name], values.manifold, values.period, name)
    if not values.levels and not values.kinds:  # A cell of a table may be missing.
      check_finite(arrays[name], name, gaps=facts.gaps and name == 'x')
  return arrays


def check_lengths_of(length: np.ndarray | None, count: int, size: int) -> None:
  """Raises ValueError unless these are lengths of `count` examples of `size` elements."""
  if length is None or length.shape != (count,) or length.dtype.kind not in 'fiu':
    given = 'none' if length is None else f'{length.dtype} {list(length.shape)}'
    raise ValueError(f'lengths must be whole numbers [{count}], one for each example, got {given}')
  wrong = ~((length >= 1) & (length <= size) & (length == np.floor(length)))
  if wrong.any():
    i = int(np.argmax(wrong))
    raise ValueError(
      f'lengths must be whole numbers in 1..{size}, the length of x, and that of example {i} is '
      f'{length[i]}'
    )


def check_finite(
  array: np.ndarray, name: str, length: np.ndarray | None = None, gaps: bool = False
) -> None:
  """Raises ValueError for NaN and infinity in an array, but beyond each length [n] of its rows.

  gaps: NaN is a number that is not known.
  """
  finite = ~np.isinf(array) if gaps else np.isfinite(array)
  if length is not None:
    finite |= ~expanded(valid_of(length, array.shape[1]), array)
  if not finite.all():
    raise ValueError(f'{name} has numbers that are not finite: leave them out')


def check_channels(values: ArraySpec) -> None:
  """Raises ValueError for pictures with the channels first.

  Real numbers of such a shape may be meant: a line says how they are read.
  """
  if not values.channels_first:
    return
  shape = ', '.join(map(str, values.shape))
  line = (
    f'x is [n, {shape}], which is read as {values.shape[0]} rows and '
    f'{values.shape[-1]} channels: if its channels are first, give '
    'x.transpose(0, 2, 3, 1)'
  )
  if values.levels:
    raise ValueError(line)
  say_once(line, 'channels')


ADVICE = (
  'uint8 arrays are levels, such as pictures, and uint16 [n, L] tokens; give real numbers as '
  'float arrays, which data=npz reads (docs/arrays.md)'
)


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Holds a data set in memory, or mapped from files.

  x: uint8 with levels 0..levels - 1, or floats with levels 0, [N, ...]; tokens: x [N, L], uint8
  or uint16, has tokens 0..levels - 1; label:
  int32 [N] in 0..num_classes - 1, or None with num_classes 0; context: floats
  [N, ...] or None; low, high: the box of x; x_names, context_names: see
  `ArraySpec`; order: see `Source`; length: int [N], of how many elements of the first axis
  an example consists, whose rest may be anything; manifold, period: of angles and
  directions, see `ArraySpec`; gaps: NaN in x is a number that is not known. Raises ValueError
  for other arrays.
  """

  x: np.ndarray
  label: np.ndarray | None = None
  num_classes: int = 0
  levels: int | None = None
  context: np.ndarray | None = None
  low: tuple[float, ...] = ()
  high: tuple[float, ...] = ()
  class_names: tuple[str, ...] = ()
  x_names: tuple[str, ...] = ()
  context_names: tuple[str, ...] = ()
  order: EpochOrder | None = None
  length: np.ndarray | None = None
  tokens: bool = False
  manifold: Directional | None = None
  period: float = 0.0
  gaps: bool = False

  def __post_init__(self):
    if self.length is not None:
      check_lengths_of(self.length, *self.x.shape[:2])
      check_lengths(self.facts)
    label = {} if self.label is None else {'label': self.label}
    check_examples(ArraySource.read(self, slice(1)) | label, self.facts)
    if self.low:
      lengths = {} if self.length is None else {'length': self.length}
      check_box(self.facts.x, valid_elements({'x': self.x} | lengths, self.facts))

  @property
  def facts(self) -> Facts:
    """What the arrays are."""
    levels = self.levels
    if levels is None:
      levels = 256 if self.x.dtype == np.uint8 else 0
    x = ArraySpec(self.x.shape[1:], levels, low=self.low, high=self.high, names=self.x_names)
    x = x._replace(tokens=self.tokens, manifold=self.manifold, period=self.period)
    context = self.context
    context = None if context is None else ArraySpec(context.shape[1:], names=self.context_names)
    facts = Facts(x, self.num_classes, context, self.class_names, lengths=self._counts)
    return facts._replace(gaps=self.gaps)

  @functools.cached_property
  def _counts(self):
    if self.length is None:
      return ()
    size = 1 + self.x.shape[1]
    return tuple(np.bincount(self.length.astype(int), minlength=size)[1:].tolist())

  @property
  def in_memory(self) -> bool:
    """False for an array that is mapped from a file."""
    return not isinstance(self.x, np.memmap)

  def __len__(self) -> int:
    return len(self.x)

  def read(self, index: np.ndarray | slice) -> dict[str, np.ndarray]:
    arrays = {'x': self.x, 'label': self.label, 'context': self.context, 'length': self.length}
    arrays = {name: a[index] for name, a in arrays.items() if a is not None}
    return arrays | {'x': without_padding(arrays['x'], arrays.get('length'))}

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of examples."""
    assert self.label is not None  # only sources with labels are asked
    return self.label[index]

  def checksum(self) -> str:
    """Returns the sum of the arrays."""
    return digest(of_array(array).encode() for array in self.read(slice(None)).values())


@declares(
  what=(
    'another set, `data.source`, in black and white: x ~ Bernoulli(grey level / highest), '
    'drawn again in each epoch, in the test split once; `data.how=threshold` rounds'
  ),
  needs='what that set needs',
)
class Binarized:
  """Makes black and white images of a source's grey levels.

  drawn: x ~ Bernoulli(level / highest level): `read` always draws the same
  image; batches of training draw it again in each epoch (Salakhutdinov & Murray
  2008; Burda et al. 2016). threshold: 1 in the upper half of the levels.
  """

  def __init__(self, source: Source, how: Literal['drawn', 'threshold'] = 'drawn'):
    check_choice('how', how, ('drawn', 'threshold'))
    x = source.facts.x
    if not x.levels:
      raise ValueError('the source has real numbers, and levels are needed')
    self.source, self.how = source, how
    self.facts = source.facts._replace(x=x._replace(levels=2))
    self.in_memory = source.in_memory
    self.order = order_of(source)
    self._seeds: Callable[[int], tuple[int, ...]] = lambda row: (0,)

  def __len__(self) -> int:
    return len(self.source)

  def checksum(self) -> str:
    """Returns the checksum of the source."""
    return checksum(self.source)

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of examples."""
    return read_labels(self.source, index)

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Binarized':
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    other = copy.copy(self)
    other._seeds = lambda row: (1, seed, int(epoch[row]))
    return other

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    arrays = self.source.read(index)
    images, levels = arrays['x'], self.source.facts.x.levels
    if self.how == 'threshold':
      x = images >= (levels + 1) // 2
    else:
      shape = images.shape[1:]
      uniform = [
        np.random.default_rng((*self._seeds(row), int(i))).random(shape)
        for row, i in enumerate(index)
      ]
      x = np.reshape(uniform, images.shape) * (levels - 1) < images
    return {**arrays, 'x': x.astype(np.uint8)}

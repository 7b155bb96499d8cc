"""Sources of arrays, read by index, with optional labels and conditions."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.data.values import Values, problem_of
from diffusion_jax.ranges import Count, ImageShape, check_choice

T = TypeVar('T', bound=Callable)


class Facts(NamedTuple):
  """The facts about the data that a model needs.

  x: the examples; num_classes: 0 without labels; context: real numbers that
  belong to each example, a condition.
  """

  x: Values
  num_classes: Count = 0
  context: Values | None = None

  def as_json(self) -> Json:
    """Returns nested dicts; `context` is left out if there is none."""
    context = (
      {} if self.context is None else {'context': self.context._asdict()}
    )
    return {'x': self.x._asdict(), 'num_classes': self.num_classes, **context}


def check_facts(facts: Facts) -> None:
  """Raises ValueError for facts that no data have, perhaps of a stranger."""
  for name, values in (('x', facts.x), ('context', facts.context)):
    if wrong := values and problem_of(values):
      raise ValueError(f'{name}: {wrong}, which no data have')
  if facts.num_classes > 10**6:
    raise ValueError(f'num_classes={facts.num_classes} is more than a million')


class Source(Protocol):
  """Describes the data sets that the pipeline reads.

  facts have no mean and std of real numbers: `measured` adds them. Several
  threads read ahead from a source that is not in_memory.
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

    'x' is uint8 if it has levels. The source's other entries are 'label', int32
    [n] in 0..num_classes - 1, 'context' [n, ...] and 'text', n sentences.
    Raises ValueError that names a file that cannot be read.
    """
    ...


class OrderedSource(Source, Protocol):
  """Describes a source that orders its epochs, to be read in blocks."""

  @property
  def order(self) -> Callable[[np.random.Generator], np.ndarray] | None:
    """Draws a permutation of 0..N - 1 for an epoch; None: a uniform one."""
    ...


class RedrawnSource(Source, Protocol):
  """Describes a source of random examples, such as `Binarized`."""

  def redrawn(self, seed: int, epoch: np.ndarray) -> Source:
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    ...


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
  for start in range(0, len(source), size):
    yield source.read(np.arange(start, min(start + size, len(source))))['x']


def pictures(shape: tuple[int, ...], num_classes: int = 0) -> Facts:
  """Returns the facts of pictures of `shape` with 256 levels."""
  return Facts(Values(tuple(shape), 256), num_classes)


def facts_of_fields(
  image_shape: ImageShape,
  num_classes: int = 0,
  x_column: str = '',
  **others: object,
) -> Facts | None:
  """Returns the facts of a set whose fields say what the pictures are.

  They do not say what a column of numbers is: None.
  """
  if x_column:
    return None
  return pictures(image_shape, num_classes)


MOST_MEASURED = 10_000  # examples


def measured(source: Source) -> Facts:
  """Returns the facts of a source with mean and std of its real numbers.

  They are of at most MOST_MEASURED examples, evenly spaced. Raises ValueError
  for numbers that are not finite, a coordinate that never changes, and an
  example outside the box.
  """
  facts = source.facts
  if facts.x.levels and facts.context is None:
    return facts
  count = min(len(source), MOST_MEASURED)
  index = np.linspace(0, len(source) - 1, count).astype(int)
  arrays = source.read(index)
  x, context = facts.x, facts.context
  if not x.levels:
    check_box(x, arrays['x'])
    x = _standardised(x, arrays['x'], 'x')
  if context is not None:
    context = _standardised(context, arrays['context'], 'context')
  return facts._replace(x=x, context=context)


def check_box(x: Values, values: np.ndarray) -> None:
  """Raises ValueError for an example outside the box of x."""
  outside = ~x.inside(values)
  if outside.any():
    first = values[outside][0].ravel()[:8]
    raise ValueError(
      f'{outside.sum()} of {len(values)} examples are outside bounds, such as '
      f'[{", ".join(f"{v:.6g}" for v in first)}]: widen bounds, or leave them '
      'out'
    )


def _standardised(values, array, name):
  array = np.asarray(array, np.float64)
  if not np.isfinite(array).all():
    raise ValueError(f'{name} has numbers that are not finite: leave them out')
  axes = tuple(range(array.ndim - 1))
  mean, std = array.mean(axis=axes), array.std(axis=axes)
  if len(array) < 2:
    raise ValueError(f'{name} has one example: it has no standard deviation')
  constant = np.flatnonzero(std <= 1e-12 * np.abs(mean))
  if len(constant):
    raise ValueError(
      f'{name} never changes at {constant[0]} of its last axis '
      f'({mean[constant[0]]:.6g}): leave this number out'
    )
  return values._replace(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def check_examples(arrays: dict, facts: Facts) -> dict[str, np.ndarray]:
  """Returns what a source has read; raises ValueError if it is not its facts.

  Levels must be uint8, and real numbers must be finite.
  """
  for name, values in (('x', facts.x), ('context', facts.context)):
    if values is None:
      continue
    if not isinstance(arrays, dict) or name not in arrays:
      raise ValueError(
        f'read must return a dict with {name!r}, got {type(arrays).__name__}'
      )
    array = arrays[name]
    right = array.dtype.kind in 'fiu'
    if values.levels:
      right = array.dtype == np.uint8
    if not right or array.shape[1:] != tuple(values.shape):
      kind = 'uint8' if values.levels else 'float'
      raise ValueError(
        f'{name} must be {kind} [n, {", ".join(map(str, values.shape))}], got '
        f'{array.dtype} {list(array.shape)}: {ADVICE}'
      )
    if not values.levels and not np.isfinite(array).all():
      raise ValueError(
        f'{name} has numbers that are not finite: leave them out'
      )
  return arrays


ADVICE = (
  'uint8 arrays are levels, such as pictures; give real numbers as float '
  'arrays, which data=npz reads (docs/arrays.md)'
)


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Holds a data set in memory, or mapped from files.

  x: uint8 with levels 0..levels - 1, or floats with levels 0, [N, ...]; label:
  int32 [N] in 0..num_classes - 1, or None with num_classes 0; context: floats
  [N, ...] or None; low, high: the box of x. Raises ValueError for other arrays.
  """

  x: np.ndarray
  label: np.ndarray | None = None
  num_classes: int = 0
  levels: int | None = None
  context: np.ndarray | None = None
  low: tuple[float, ...] = ()
  high: tuple[float, ...] = ()

  def __post_init__(self):
    check_examples({'x': self.x[:1], **self._context(slice(1))}, self.facts)

  @property
  def facts(self) -> Facts:
    """What the arrays are."""
    levels = self.levels
    if levels is None:
      levels = 256 if self.x.dtype == np.uint8 else 0
    x = Values(self.x.shape[1:], levels, low=self.low, high=self.high)
    context = None if self.context is None else Values(self.context.shape[1:])
    return Facts(x, self.num_classes, context)

  @property
  def in_memory(self) -> bool:
    """False for an array that is mapped from a file."""
    return not isinstance(self.x, np.memmap)

  def __len__(self) -> int:
    return len(self.x)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    label = {} if self.label is None else {'label': self.label[index]}
    return {'x': self.x[index], **label, **self._context(index)}

  def _context(self, index):
    return {} if self.context is None else {'context': self.context[index]}


class Binarized:
  """Makes black and white images of a source's grey levels.

  drawn: x ~ Bernoulli(level / highest level): `read` always draws the same
  image; batches of training draw it again in each epoch (Salakhutdinov & Murray
  2008; Burda et al. 2016). threshold: 1 in the upper half of the levels.
  """

  def __init__(
    self, source: Source, how: Literal['drawn', 'threshold'] = 'drawn'
  ):
    check_choice('how', how, ('drawn', 'threshold'))
    x = source.facts.x
    if not x.levels:
      raise ValueError('the source has real numbers, and levels are needed')
    self.source, self.how = source, how
    self.facts = source.facts._replace(x=x._replace(levels=2))
    self.in_memory = source.in_memory
    self.order = getattr(source, 'order', None)
    self._seeds: Callable[[int], tuple[int, ...]] = lambda row: (0,)

  def __len__(self) -> int:
    return len(self.source)

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
      uniform = [
        np.random.default_rng((*self._seeds(row), int(i))).random(
          images.shape[1:]
        )
        for row, i in enumerate(index)
      ]
      x = np.reshape(uniform, images.shape) * (levels - 1) < images
    return {**arrays, 'x': x.astype(np.uint8)}

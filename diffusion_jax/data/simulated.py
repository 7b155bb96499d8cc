"""Sources of a simulator: a function (rng, n) -> dict of arrays [n, ...]."""

import copy
import functools
import inspect
from collections.abc import Callable

import numpy as np

from diffusion_jax.data.npz import box_of
from diffusion_jax.data.sources import ArraySource, Facts, Source, check_box
from diffusion_jax.data.splits import check_split
from diffusion_jax.ranges import Count, Finite, Rows

# (rng, n) -> {'x': [n, ...], 'context': [n, ...]}; 'label' [n] is optional.
Simulator = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
BLOCK = 1000  # simulations at a time


def is_simulator(function: object) -> bool:
  """Returns whether a function has the parameters rng and n."""
  if not inspect.isfunction(function):
    return False
  return [*inspect.signature(function).parameters][:2] == ['rng', 'n']


def simulated(simulate: Simulator) -> Callable[..., Source]:
  """Returns the constructor of a simulator's source, as `data=module:simulate`.

  It has the parameters of `of_simulator`, and simulate's besides rng and n.
  """

  @functools.wraps(simulate)
  def constructor(**values):
    own = {n: values.pop(n) for n in [*values] if n not in _OWN}
    return of_simulator(functools.partial(simulate, **own), **values)

  signature = inspect.signature(of_simulator, eval_str=True)
  others = [*inspect.signature(simulate, eval_str=True).parameters.values()][2:]
  taken = [p for n, p in signature.parameters.items() if n != 'simulate']
  keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in (*taken, *others)]
  vars(constructor)['__signature__'] = signature.replace(parameters=keywords)
  return constructor


def of_simulator(
  simulate: Simulator,
  split: str = 'train',
  num_examples: Rows = 10_000,
  num_test: Rows = 1000,
  fresh: bool = False,
  draws: Count = 0,
  num_classes: Count = 0,
  bounds: tuple[Finite, ...] = (),
  joint: bool = False,
) -> Source:
  """Returns simulations as a source.

  num_examples: of the train split; num_test: of the test split, which has other
  random numbers; fresh: each epoch of training has new simulations; draws: the
  seed of the random numbers; bounds: see `npz`; joint: x is one vector of x and
  context, without a context, and bounds are of its first part. Simulations with
  NaN are left out, and their number is printed. Raises ValueError.
  """
  check_split(split)
  source = Simulated(
    simulate,
    num_examples if split == 'train' else num_test,
    (draws, split == 'test'),
    num_classes,
    bounds,
    joint,
  )
  return source if fresh and split == 'train' else source.kept()


_OWN = {*inspect.signature(of_simulator).parameters}


class Simulated:
  """Simulates its examples when they are read, block by block.

  Example i depends on the seed, the epoch and i. A simulation with NaN is
  replaced by the next one without NaN in its block.
  """

  in_memory = True

  def __init__(
    self, simulate, size, seed, num_classes=0, bounds=(), joint=False
  ):
    self._simulate, self._size, self._seed = simulate, size, seed
    self._num_classes, self._bounds = num_classes, bounds
    self._epoch, self._kept, self._shapes = None, {}, {}
    first = self.block(0, 0)[0]
    x = first['x']
    self._low, self._high = box_of(bounds, x.shape[-1])
    if joint:
      self._kept, first, x = {}, joined(first), first['x']
      self._simulate = lambda rng, n: joined(
        check_simulations(simulate(rng, n), n)
      )
    self._shapes = {name: a.shape[1:] for name, a in first.items()}
    some = self._source(first)
    self.facts: Facts = some.facts
    check_box(some.facts.x, first['x'])

  def __len__(self) -> int:
    return self._size

  def order(self, rng: np.random.Generator) -> np.ndarray:
    """Returns 0..N - 1: draws need no permutation."""
    return np.arange(self._size)

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Simulated':
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    other = copy.copy(self)
    other._seed, other._epoch = (*self._seed, seed), epoch
    return other

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    epoch = (
      np.zeros(len(index), int) if self._epoch is None else self._epoch + 1
    )
    places, rows = np.divmod(np.asarray(index), BLOCK)
    parts: dict[str, np.ndarray] = {}
    for e, place in sorted(
      {*zip(epoch.tolist(), places.tolist(), strict=True)}
    ):
      chosen = (epoch == e) & (places == place)
      block, _ = self.block(int(e), int(place))
      for name, array in block.items():
        if name not in parts:
          parts[name] = np.empty((len(index), *array.shape[1:]), array.dtype)
        parts[name][chosen] = array[rows[chosen]]
    check_box(self.facts.x, parts['x'])
    return parts

  def kept(self) -> ArraySource:
    """Returns all examples in memory, without those that have NaN."""
    blocks = [self.block(0, i, True) for i in range(-(-self._size // BLOCK))]
    arrays = {
      name: np.concatenate([block[name] for block, _ in blocks])
      for name in blocks[0][0]
    }
    bad = sum(count for _, count in blocks)
    if bad:
      print(f'{bad:,} of {self._size:,} simulations have NaN and are left out')
    source = self._source(arrays)
    check_box(source.facts.x, source.x)
    return source

  def _source(self, arrays):
    return ArraySource(
      arrays['x'],
      arrays.get('label'),
      self._num_classes,
      context=arrays.get('context'),
      low=self._low,
      high=self._high,
    )

  def block(
    self, epoch: int, place: int, only_finite: bool = False
  ) -> tuple[dict[str, np.ndarray], int]:
    """Returns (arrays of a block, how many simulations in it have NaN)."""
    count = min(BLOCK, self._size - place * BLOCK)
    seed = (*self._seed, epoch, place)
    key = seed, only_finite
    if key not in self._kept:  # The latest two blocks: a batch may need both.
      made = _block(self._simulate, seed, count, only_finite)
      shapes = {name: a.shape[1:] for name, a in made[0].items()}
      if self._shapes not in ({}, shapes):
        raise ValueError(
          f'a simulator must return the same shapes each time, got {shapes} '
          f'after {self._shapes}'
        )
      self._kept = dict([*self._kept.items()][-1:]) | {key: made}
    return self._kept[key]


def _block(simulate, seed, count, only_finite):
  rng = np.random.default_rng(tuple(int(part) for part in seed))
  arrays = check_simulations(simulate(rng, count), count)
  good = np.ones(count, bool)
  for array in arrays.values():
    if array.dtype.kind == 'f':
      good &= np.isfinite(array).reshape(count, -1).all(axis=1)
  if not good.any():
    raise ValueError(
      f'all {count} simulations have NaN: none is left to train on'
    )
  index = np.flatnonzero(good)
  if not only_finite:
    index = np.where(good, np.arange(count), np.resize(index, count))
  return {name: array[index] for name, array in arrays.items()}, (~good).sum()


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns simulations with one vector (x, context) as x; ValueError."""
  if 'context' not in arrays:
    raise ValueError('joint needs a simulator that returns a context')
  both = [arrays[name].reshape(len(arrays['x']), -1) for name in _JOINED]
  others = {n: a for n, a in arrays.items() if n not in _JOINED}
  return {'x': np.concatenate(both, axis=1), **others}


_JOINED = 'x', 'context'


def check_simulations(arrays: object, count: int) -> dict[str, np.ndarray]:
  """Returns a simulator's result; raises ValueError in one line for another."""
  names = 'x', 'context', 'label'
  if not isinstance(arrays, dict) or 'x' not in arrays or {*arrays} - {*names}:
    given = [*arrays] if isinstance(arrays, dict) else type(arrays).__name__
    raise ValueError(
      'a simulator must return a dict with x, and context or label: got '
      f'{given}'
    )
  found = {}
  for name, array in arrays.items():
    array = np.asarray(array)
    if array.ndim < 1 + (name != 'label') or len(array) != count:
      raise ValueError(
        f'a simulator must return {name} of the shape [{count}, ...], got '
        f'{list(array.shape)}'
      )
    if name == 'label':
      found[name] = array.astype(np.int32)
    elif array.dtype == np.uint8 or array.dtype.kind == 'f':
      found[name] = array
    else:
      found[name] = array.astype(np.float64)
  return found

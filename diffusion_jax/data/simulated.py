"""Sources of a simulator: a function (rng, n) -> dict of arrays [n, ...]."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.npz import box_of
from diffusion_jax.data.simulations import (
  BLOCK,
  Arrays,
  KeptIn,
  Simulator,
  check_shapes,
  simulate_block,
  simulations,
)
from diffusion_jax.data.sources import ArraySource, Source
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.splits import check_split
from diffusion_jax.data.sums import digest
from diffusion_jax.declared import Free
from diffusion_jax.ranges import Count, Finite, Rows


def is_simulator(function: object) -> bool:
  """Returns whether a function has the parameters rng and n."""
  if not inspect.isfunction(function):
    return False
  return [*inspect.signature(function).parameters][:2] == ['rng', 'n']


def simulated(simulate: Simulator) -> Callable[..., Source]:
  """Returns the constructor of a simulator's source, as `data=module:simulate`.

  It has the parameters of `of_simulator`, and simulate's besides rng and n.
  """
  signature = inspect.signature(of_simulator, eval_str=True)

  @functools.wraps(simulate)
  def constructor(**values):
    of_source = {name: x for name, x in values.items() if name in signature.parameters}
    of_user = {name: x for name, x in values.items() if name not in signature.parameters}
    return of_simulator(functools.partial(simulate, **of_user), **of_source)

  others = inspect.signature(simulate, eval_str=True).parameters.values()
  taken = [*signature.parameters.values()][1:] + [*others][2:]
  keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in taken]
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
  workers: Free[Count] = 0,
  version: Count = 1,
  kept_in: str | Path | KeptIn | dict | None = None,
) -> Source:
  """Returns simulations as a source.

  num_examples, num_test: of the splits, which have other random numbers; fresh:
  each epoch of training has new simulations, which nothing keeps; draws: the
  seed; bounds: see `npz`; joint: x is one vector of x and context, and bounds
  are of its first part; workers: processes, 0 for this one; version: another
  number simulates again, as after a change of a file that the simulator reads;
  kept_in: see `simulations`. Those with NaN are left out, and their number is printed when
  they run, unless kept_in is a dict. Raises ValueError.
  """
  check_split(split)
  size = num_examples if split == 'train' else num_test
  seed = draws, split == 'test'
  made = functools.partial(_source, num_classes=num_classes, bounds=bounds, joint=joint)
  if fresh and split == 'train':
    return Simulated(simulate, size, seed, made)
  arrays, new = simulations(simulate, size, (*seed, 0), workers, kept_in, version)
  good = np.flatnonzero(_is_finite(arrays))
  if new and len(good) < size and not isinstance(kept_in, dict):
    bad = size - len(good)
    print(f'{bad:,} of {size:,} simulations have NaN and are left out')
  return made({name: array[good] for name, array in arrays.items()})


def _source(arrays, num_classes=0, bounds=(), joint=False):
  low, high = box_of(bounds, arrays['x'].shape[-1])
  if joint:  # The box is of the last axis of x, and repeats for the others.
    times = int(np.prod(arrays['x'].shape[1:-1]))
    arrays, low, high = joined(arrays), times * low, times * high
  return ArraySource(**arrays, num_classes=num_classes, low=low, high=high)


def _is_finite(arrays):
  # Returns which simulations have no NaN, bool [n]; ValueError if none has.
  good = np.ones(len(arrays['x']), bool)
  for array in arrays.values():
    if array.dtype.kind == 'f':
      good &= np.isfinite(array).reshape(len(good), -1).all(axis=1)
  if not good.any():
    raise ValueError(f'all {len(good)} simulations have NaN: none is left to train on')
  return good


class Simulated:
  """Simulates its examples when they are read, block by block.

  Example i depends on the seed, the epoch and i. A simulation with NaN is
  replaced by the next one without NaN in its block. epoch: of each row of
  `read`, less 1; first: the first block of the source, if it is known.
  """

  in_memory = True

  def __init__(
    self,
    simulate: Simulator,
    size: int,
    seed: tuple[int, ...],
    source: Callable[[Arrays], ArraySource] = _source,
    *,
    epoch: int | np.ndarray = -1,
    first: Arrays | None = None,
  ):
    self._simulate, self._size, self._seed = simulate, size, seed
    self._source, self._epoch = source, epoch
    self._kept, self._first = {}, first or {}
    self._first = self._first or self.block(0, 0)
    self.facts: Facts = self._source(self._first).facts

  def __len__(self) -> int:
    return self._size

  def checksum(self) -> str:
    """Returns a sum of the number of examples and the first block, which all others are like."""
    parts = (part for name, x in sorted(self._first.items()) for part in (name.encode(), x))
    return digest([b'%d' % self._size, *parts])

  def order(self, rng: np.random.Generator) -> np.ndarray:
    """Returns 0..N - 1: draws need no permutation."""
    return np.arange(self._size)

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Simulated':
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    seeds = (*self._seed, seed)
    return Simulated(
      self._simulate, self._size, seeds, self._source, epoch=epoch, first=self._first
    )

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    epoch = np.broadcast_to(self._epoch + 1, len(index))
    places, rows = np.divmod(np.asarray(index), BLOCK)
    parts: Arrays = {}
    pairs = zip(epoch.tolist(), places.tolist(), strict=True)
    for e, place in sorted({*pairs}):
      chosen = (epoch == e) & (places == place)
      block = self._source(self.block(e, place))
      for name, array in block.read(rows[chosen]).items():
        if name not in parts:
          parts[name] = np.empty((len(index), *array.shape[1:]), array.dtype)
        parts[name][chosen] = array
    return parts

  def block(self, epoch: int, place: int) -> Arrays:
    """Returns the arrays of a block, without NaN."""
    count = min(BLOCK, self._size - place * BLOCK)
    seed = (*self._seed, epoch, place)
    if seed not in self._kept:  # The latest two blocks: a batch may need both.
      arrays = simulate_block(self._simulate, seed, count)
      check_shapes(arrays, self._first or arrays)
      good = _is_finite(arrays)
      index = np.flatnonzero(good)
      index = np.where(good, np.arange(count), np.resize(index, count))
      arrays = {name: array[index] for name, array in arrays.items()}
      self._kept = dict([*self._kept.items()][-1:]) | {seed: arrays}
    return self._kept[seed]


def joined(arrays: Arrays) -> dict[str, Any]:
  """Returns simulations with one vector (x, context) as x; ValueError."""
  if 'context' not in arrays:
    raise ValueError('joint needs a simulator that returns a context')
  size, others = len(arrays['x']), dict(arrays)
  both = [others.pop(name).reshape(size, -1) for name in ('x', 'context')]
  return {'x': np.concatenate(both, axis=1), **others}

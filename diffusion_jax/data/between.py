"""Two sets as one: data, and the source from which a bridge takes them."""

import copy

import numpy as np

from diffusion_jax.data.sources import Source, checksum, order_of, read_labels, redrawn
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.sums import digest
from diffusion_jax.declared import declares


@declares(
  what='two sets, `data.target` and `data.source`, for a [bridge](bridges.md)',
  needs='what these sets need',
)
class Between:
  """Joins examples of a target with examples of a source, which are their context.

  paired: example i of one belongs to example i of the other; else each epoch of
  training shifts the source by a random number of examples. Columns of two
  tables are joined by their names, or by their places if no name is in both.
  Raises ValueError for pairs of sets that have different lengths, and for
  tables that share some of their columns but not all.
  """

  def __init__(self, target: Source, source: Source, paired: bool = False):
    if paired and len(target) != len(source):
      raise ValueError(
        f'paired=True needs sets of one length: the target has {len(target):,} examples and '
        f'the source {len(source):,}'
      )
    self.target, self.source, self.paired = target, source, paired
    self._columns = _order(target.facts.x.names, source.facts.x.names)
    context = source.facts.x
    if self._columns is not None:
      context = context._replace(names=target.facts.x.names, low=(), high=())
    self.facts: Facts = target.facts._replace(context=context)
    self.in_memory = target.in_memory and source.in_memory
    self.order = order_of(target)
    self._shift: int | np.ndarray = 0

  def __len__(self) -> int:
    return len(self.target)

  def checksum(self) -> str:
    """Returns a sum of both sets' checksums; '' if one has none."""
    sums = [checksum(part) for part in (self.target, self.source)]
    return digest(map(str.encode, sums)) if all(sums) else ''

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of the target's examples."""
    return read_labels(self.target, index)

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Between':
    """Returns the set whose row i of `read` is of epoch[i]."""
    other = copy.copy(self)
    other.target, other.source = (redrawn(x, seed, epoch) for x in (self.target, self.source))
    if not self.paired:
      shifts = {e: _shift(seed, e, len(self.source)) for e in np.unique(epoch).tolist()}
      other._shift = np.array([shifts[e] for e in epoch.tolist()])
    return other

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    places = (index + self._shift) % len(self.source)
    context = self.source.read(places)['x']
    if self._columns is not None:
      context = context[..., self._columns]
    return self.target.read(index) | {'context': context}


def _order(target, source):
  # Returns the places of the target's columns in the source; None: as they are.
  if target == source or not {*target} & {*source}:
    return None
  if sorted(target) != sorted(source):
    raise ValueError(
      f'the target has the columns {", ".join(target)}, and the source {", ".join(source)}: '
      'name the same columns in both, in any order'
    )
  return [source.index(name) for name in target]


def _shift(seed, epoch, size):
  return int(np.random.default_rng((2, seed, epoch)).integers(size))

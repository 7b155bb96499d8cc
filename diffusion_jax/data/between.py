"""Two sets as one: data, and the source from which a bridge takes them."""

import copy

import numpy as np

from diffusion_jax.data.sources import (
  Facts,
  OrderedSource,
  RedrawnSource,
  Source,
  checksum,
  digest,
)


class Between:
  """Joins examples of x with examples of a source, which become their context.

  paired: example i of one belongs to example i of the other; else each epoch of
  training shifts the source by a random number of examples. Raises ValueError
  for pairs of sets that have different lengths.
  """

  def __init__(self, x: Source, source: Source, paired: bool = False):
    if paired and len(x) != len(source):
      raise ValueError(
        f'paired=True needs sets of one length: x has {len(x):,} examples and the source '
        f'{len(source):,}'
      )
    self.x, self.source, self.paired = x, source, paired
    self.facts: Facts = x.facts._replace(context=source.facts.x)
    self.in_memory = x.in_memory and source.in_memory
    self.order = x.order if isinstance(x, OrderedSource) else None
    self._shift: int | np.ndarray = 0

  def __len__(self) -> int:
    return len(self.x)

  def checksum(self) -> str:
    """Returns a sum of both sets."""
    return digest(checksum(part).encode() for part in (self.x, self.source))

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Between':
    """Returns the set whose row i of `read` is of epoch[i]."""
    other = copy.copy(self)
    other.x, other.source = (
      part.redrawn(seed, epoch) if isinstance(part, RedrawnSource) else part
      for part in (self.x, self.source)
    )
    if not self.paired:
      shifts = {e: _shift(seed, e, len(self.source)) for e in np.unique(epoch).tolist()}
      other._shift = np.array([shifts[e] for e in epoch.tolist()])
    return other

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    places = (index + self._shift) % len(self.source)
    return self.x.read(index) | {'context': self.source.read(places)['x']}


def _shift(seed, epoch, size):
  return int(np.random.default_rng((2, seed, epoch)).integers(size))

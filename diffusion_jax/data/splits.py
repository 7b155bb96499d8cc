"""The parts of a set for training, validation and testing."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from diffusion_jax.data.sources import EpochOrder, Source, checksum, order_of, read_labels, redrawn
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.sums import digest
from diffusion_jax.ranges import Rate, check_choice, check_value


class NoTestSplit(ValueError):
  """Signals that a data set has no test split."""


def check_split(split: str) -> None:
  """Raises ValueError for a split other than 'train', 'test'."""
  check_choice('split', split, ('train', 'test'))


def check_fraction(test_fraction: float, split: str, path: str | Path) -> None:
  """Raises ValueError if test_fraction does not give a split of `path`."""
  check_value('test_fraction', test_fraction, Rate)
  if split == 'test' and not test_fraction:
    raise NoTestSplit(
      f'{path} has no test split: set test_fraction, for example to 0.1, to hold out a part of it'
    )


def check_part(count: int, size: int, test_fraction: float, split: str, what: str) -> None:
  """Raises ValueError if a split of `size` images is empty, `NoTestSplit` for the test split."""
  if not count:
    kind = NoTestSplit if split == 'test' else ValueError
    raise kind(
      f'test_fraction={test_fraction} leaves none of the {size} {what} for the {split} split'
    )


def validation_part(size: int, split: str, fraction: float, seed: int) -> np.ndarray:
  """Returns the indices of 'validation', or of 'train', the other examples.

  size: of the training split. Raises ValueError for an empty part.
  """
  check_value('validation_fraction', fraction, Rate)
  count = round(size * fraction)
  if not 0 < count < size:
    part = 'training' if count else 'validation part'
    raise ValueError(
      f'validation_fraction={fraction} leaves none of the {size} training examples for the {part}'
    )
  order = np.random.default_rng((seed, 2)).permutation(size)
  return np.sort(order[:count] if split == 'validation' else order[count:])


def random_part(size: int, split: str, test_fraction: float, path: str | Path) -> np.ndarray:
  """Returns the indices of a split of `size` images, the same in every run."""
  check_fraction(test_fraction, split, path)
  count = round(size * test_fraction)
  order = np.random.default_rng(0).permutation(size)
  part = order[:count] if split == 'test' else order[count:]
  check_part(len(part), size, test_fraction, split, f'examples in {path}')
  return np.sort(part)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """Holds the examples of a source with the indices `rows`, int [N]."""

  source: Source
  rows: np.ndarray

  @property
  def facts(self) -> Facts:
    """The facts of the source."""
    return self.source.facts

  @property
  def in_memory(self) -> bool:
    """Whether the source is."""
    return self.source.in_memory

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    return self.source.read(self.rows[index])

  def checksum(self) -> str:
    """Returns a sum of the source's checksum and the rows; '' without one."""
    total = checksum(self.source)
    return total and digest([total.encode(), self.rows])

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of examples."""
    return read_labels(self.source, self.rows[index])

  # One function, by which `pipeline` keeps permutations.
  @functools.cached_property
  def order(self) -> EpochOrder | None:
    """The source's order of these examples."""
    draw = order_of(self.source)
    if draw is None:
      return None
    places = np.full(len(self.source), -1)
    places[self.rows] = np.arange(len(self.rows))

    def order(rng):
      every = places[draw(rng)]
      return every[every >= 0]

    return order

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Part':
    """Returns the part whose row i of `read` is drawn for epoch[i]."""
    return Part(redrawn(self.source, seed, epoch), self.rows)

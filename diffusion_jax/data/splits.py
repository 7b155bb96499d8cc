"""The parts of a set for training and testing."""

from pathlib import Path

import numpy as np

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
  """Raises ValueError if a split of `size` images is empty."""
  if not count:
    raise ValueError(
      f'test_fraction={test_fraction} leaves none of the {size} {what} for the {split} split'
    )


def random_part(size: int, split: str, test_fraction: float, path: str | Path) -> np.ndarray:
  """Returns the indices of a split of `size` images, the same in every run."""
  check_fraction(test_fraction, split, path)
  count = round(size * test_fraction)
  order = np.random.default_rng(0).permutation(size)
  part = order[:count] if split == 'test' else order[count:]
  check_part(len(part), size, test_fraction, split, f'images in {path}')
  return np.sort(part)

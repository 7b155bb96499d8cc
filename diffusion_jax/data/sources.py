"""Sources of images: uint8, read by index, with optional labels."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusion_jax.ranges import (
  Count,
  ImageShape,
  Rate,
  Size,
  check_choice,
  check_value,
)


class Source(Protocol):
  """Describes the data sets that the pipeline reads.

  Grey levels are 0..num_levels - 1 and labels 0..num_classes - 1. Several
  threads read ahead from a source that is not in_memory.
  """

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    ...

  @property
  def num_classes(self) -> int:
    """Number of classes, 0 without labels."""
    ...

  @property
  def num_levels(self) -> int:
    """Number of grey levels."""
    ...

  @property
  def in_memory(self) -> bool:
    """Whether `read` is fast, so that reading ahead is not needed."""
    ...

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images uint8 [n, H, W, C] and labels int32 [n] or None.

    Raises ValueError that names a file that cannot be read.
    """
    ...


class TextSource(Source, Protocol):
  """Describes a source with one sentence per image."""

  def texts(self, index: np.ndarray) -> list[str]:
    """Returns n sentences."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Holds a data set in memory.

  images: uint8 [N, H, W, C] with values 0..num_levels - 1; labels: int32 [N] in
  0..num_classes - 1, or None with num_classes 0.
  """

  images: np.ndarray
  labels: np.ndarray | None = None
  num_classes: int = 0
  num_levels: int = 256
  in_memory = True

  def __len__(self) -> int:
    return len(self.images)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images uint8 [n, H, W, C] and labels int32 [n] or None."""
    labels = None if self.labels is None else self.labels[index]
    return self.images[index], labels

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    _, height, width, channels = self.images.shape
    return height, width, channels


@dataclasses.dataclass(frozen=True, eq=False)
class TwoLevels:
  """Thresholds a source: 1 in the upper half of its grey levels, else 0."""

  source: Source
  num_levels = 2

  def __len__(self) -> int:
    return len(self.source)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images of 0 and 1, uint8, and labels or None."""
    images, labels = self.source.read(index)
    upper = images >= (self.source.num_levels + 1) // 2
    return upper.astype(np.uint8), labels

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.source.image_shape

  @property
  def num_classes(self) -> int:
    """The number of classes of the source."""
    return self.source.num_classes

  @property
  def in_memory(self) -> bool:
    """Whether the source is in memory."""
    return self.source.in_memory


@functools.cache  # scikit-learn parses a text file
def _parsed_digits():
  from sklearn.datasets import load_digits

  return load_digits(return_X_y=True)


def digits(split: str = 'train') -> ArraySource:
  """Returns the 8x8 handwritten digits of scikit-learn, with 17 grey levels.

  They are real images (UCI, Alpaydin & Kaynak 1998) with a fixed split: 1,437
  in 'train', 360 in 'test'. Nothing is downloaded.
  """
  check_split(split)
  pixels, labels = _parsed_digits()
  order = np.random.default_rng(0).permutation(len(pixels))
  index = order[:360] if split == 'test' else order[360:]
  images = pixels[index].reshape(-1, 8, 8, 1).astype(np.uint8)
  return ArraySource(images, labels[index].astype(np.int32), 10, 17)


def synthetic(
  split: str = 'train',
  image_shape: ImageShape = (32, 32, 3),
  num_classes: Count = 10,
  num_images: Size = 256,
) -> ArraySource:
  """Returns generated images of discs, to try a program without data.

  The class is the hue of the disc; position, size and background are random.
  'train' and 'test' have different images.
  """
  check_split(split)
  rng = np.random.default_rng(0 if split == 'train' else 1)
  height, width, channels = image_shape
  labels = np.arange(num_images, dtype=np.int32) % max(num_classes, 1)
  centre = rng.uniform(0.3, 0.7, (num_images, 2, 1, 1))
  radius = rng.uniform(0.15, 0.3, (num_images, 1, 1))
  y = (np.arange(height)[:, None] + 0.5) / height - centre[:, 0]
  x = (np.arange(width)[None] + 0.5) / width - centre[:, 1]
  disc = (y**2 + x**2 < radius**2)[..., None]
  phase = labels[:, None] / max(num_classes, 1) + np.arange(channels) / 3.0
  colour = 0.5 + 0.5 * np.cos(2.0 * np.pi * phase)[:, None, None, :]
  ground = rng.uniform(0.2, 0.6, (num_images, 1, 1, 1))
  images = np.rint(255.0 * np.where(disc, colour, ground)).astype(np.uint8)
  return ArraySource(images, labels if num_classes else None, num_classes)


def npz(
  path: str | Path,
  split: str = 'train',
  num_classes: Count = 0,
  test_fraction: Rate = 0.0,
) -> ArraySource:
  """Reads an npz file: `images` or `arr_0`, uint8 [N, H, W, C] or [N, H, W].

  `labels` [N] are read if num_classes is not 0. The test split is `test_images`
  and `test_labels` if the file has them, otherwise a fixed random test_fraction
  of the images, which 'train' does not contain. The files of `--mode=sample`
  can be read. Raises ValueError or FileNotFoundError.
  """
  check_split(split)
  names = npz_names(path)
  path = Path(path).expanduser()
  has_test = 'test_images' in names
  prefix = 'test_' if has_test and split == 'test' else ''
  whole = 'images' if prefix or 'images' in names else 'arr_0'
  needed = [f'{prefix}{whole}', *[f'{prefix}labels'] * bool(num_classes)]
  if not {*needed} <= {*names}:
    raise ValueError(
      f'{path} has the arrays {", ".join(names) or "none"}; it must contain '
      'images or arr_0, uint8 [N, H, W, C], and labels, int [N], with '
      'test_labels for test_images, unless num_classes=0'
    )
  images, *labels = read_npz(path, needed).values()
  images = images[..., None] if images.ndim == 3 else images
  if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
    raise ValueError(
      f'{path}: images must be uint8 [N, H, W, C] or [N, H, W], got '
      f'{images.dtype} {list(images.shape)}'
    )
  labels = (
    _checked(path, labels[0], len(images), num_classes) if labels else None
  )
  if not has_test:
    index = _fixed_part(len(images), split, test_fraction, path)
    images = images[index]
    labels = None if labels is None else labels[index]
  return ArraySource(images, labels, num_classes)


def existing(
  path: str | Path,
  what: str,
  exists: Callable[[Path], bool] = Path.exists,
  hint: str = '',
) -> Path:
  """Returns a path with ~ expanded; FileNotFoundError if it does not exist."""
  path = Path(path).expanduser()
  if not exists(path):
    raise FileNotFoundError(f'{what} {path} not found{hint}')
  return path


def npz_names(path: str | Path) -> list[str]:
  """Returns the names of the arrays in an npz file.

  Raises FileNotFoundError, or ValueError in one line for another kind of file.
  """
  hint = '; for a folder of pictures, set data=folder'
  path = existing(path, 'npz file', Path.is_file, hint)
  with path.open('rb') as file:
    if file.read(2) != b'PK':
      raise ValueError(
        f'{path} is not an npz file of arrays: numpy.savez(file, images=array) '
        'writes one'
      )
  return list(_with_npz(path, lambda file: file.files))


def read_npz(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
  """Returns arrays of an npz file by their names, in this order.

  Raises ValueError in one line for a damaged file and for Python objects.
  """
  return _with_npz(
    path, lambda file: {name: np.asarray(file[name]) for name in names}
  )


def _with_npz(path, function):
  # NumPy itself would not close the file of a damaged archive.
  existing(path, 'npz file', Path.is_file)  # A pipe would hang.
  with reading_npz(path), open(path, 'rb') as raw:
    with np.load(raw, allow_pickle=False) as file:
      return function(file)


@contextlib.contextmanager
def reading_npz(path: str | Path) -> Iterator[None]:
  """Turns the errors of a damaged npz file into ValueError, in one line."""
  try:
    yield
  except Exception as error:  # NumPy and zipfile have many.
    reason = str(error) or type(error).__name__
    if 'allow_pickle' in reason:
      reason = 'it contains Python objects, which are not read'
    raise ValueError(f'{path} is not an npz file of arrays: {reason}') from None


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
      f'{path} has no test split: set test_fraction, for example to 0.1, to '
      'hold out a part of it'
    )


def check_part(
  count: int, size: int, test_fraction: float, split: str, what: str
) -> None:
  """Raises ValueError if a split has none of the `size` images."""
  if not count:
    raise ValueError(
      f'test_fraction={test_fraction} leaves none of the {size} {what} for the '
      f'{split} split'
    )


def _fixed_part(size, split, test_fraction, path):
  # Returns the indices of a split, the same in every run.
  check_fraction(test_fraction, split, path)
  count = round(size * test_fraction)
  order = np.random.default_rng(0).permutation(size)
  part = order[:count] if split == 'test' else order[count:]
  check_part(len(part), size, test_fraction, split, f'images in {path}')
  return np.sort(part)


def _checked(path, labels, size, num_classes):
  # Returns int32 labels; raises ValueError unless they are 0..num_classes - 1.
  is_labels = labels.shape == (size,) and labels.dtype.kind in 'iu'
  if not is_labels or labels.min() < 0 or labels.max() >= num_classes:
    limits = f', {labels.min()}..{labels.max()}' if is_labels else ''
    raise ValueError(
      f'{path}: labels must be int [{size}] in 0..{num_classes - 1}, got '
      f'{labels.dtype} {list(labels.shape)}{limits}'
    )
  return labels.astype(np.int32)

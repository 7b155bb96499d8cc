"""Sources of images: random access, uint8, with optional labels."""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusion_jax.ranges import Count, ImageShape, Rate, Size

# np.load may raise any of these for a file that is not an intact npz.
UNREADABLE = (
  ValueError,
  TypeError,
  EOFError,
  OSError,
  zipfile.BadZipFile,
  zlib.error,
  RuntimeError,  # Of an unknown compression, or of a password.
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
    """Whether `read` is fast and need not be done ahead."""
    ...

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images uint8 [n, H, W, C] and labels int32 [n] or None.

    Raises ValueError that names the file, if one cannot be read.
    """
    ...


class TextSource(Source, Protocol):
  """Describes a source with one sentence per image."""

  def texts(self, index: np.ndarray) -> list[str]:
    """Returns n sentences. Raises ValueError if one is missing."""
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
  """Thresholds a source: 0, or 1 in the upper half of its grey levels."""

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


def digits(split: str = 'train') -> ArraySource:
  """Returns the 8x8 handwritten digits of scikit-learn, with 17 grey levels.

  They are 1,797 real images (UCI, Alpaydin & Kaynak 1998), with a fixed split:
  'train' 1,437, 'test' 360. Nothing is downloaded.
  """
  from sklearn.datasets import load_digits

  check_split(split)
  pixels, labels = load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(pixels))
  chosen = order[:360] if split == 'test' else order[360:]
  images = pixels[chosen].reshape(-1, 8, 8, 1).astype(np.uint8)
  return ArraySource(images, labels[chosen].astype(np.int32), 10, 17)


def synthetic(
  split: str = 'train',
  image_shape: ImageShape = (32, 32, 3),
  num_classes: Count = 10,
  num_images: Size = 256,
) -> ArraySource:
  """Returns generated images of discs, to try a program without data.

  The class is the hue of the disc; its position, its size and the background
  are random. 'train' and 'test' are different images.
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
  and `test_labels`, or else a fixed random test_fraction of the images, which
  'train' then lacks. Reads what `--mode=sample` writes. Raises ValueError or
  FileNotFoundError.
  """
  check_split(split)
  path = Path(path).expanduser()
  if path.is_dir():
    raise ValueError(
      f'{path} is a folder, not an npz file: data=folder reads pictures'
    )
  known = npz_names(path)
  whole = 'arr_0' if 'images' not in known and 'arr_0' in known else 'images'
  own_test = 'test_images' in known
  prefix = 'test_' if own_test and split == 'test' else ''
  whole, name = 'test_images' if prefix else whole, f'{prefix}labels'
  has = f'{path} has the arrays {", ".join(known) or "none"}'
  if whole not in known:
    raise ValueError(f'{has}: images or arr_0, uint8 [N, H, W, C], is needed')
  if num_classes and name not in known:
    raise ValueError(
      f'{has}: {name}, int [N], is needed for num_classes={num_classes}; '
      'num_classes=0 reads images without classes'
    )
  arrays = read_npz(path, (whole, name) if num_classes else (whole,))
  images, labels = arrays[whole], arrays.get(name)
  images = images[..., None] if images.ndim == 3 else images
  if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
    raise ValueError(
      f'{path}: images are {images.dtype} {list(images.shape)}, not uint8 '
      '[N, H, W, C] or [N, H, W]'
    )
  if labels is not None:
    labels = _check_labels(f'{path}: {name}', labels, len(images), num_classes)
  if not own_test:
    chosen = _fixed_part(len(images), split, test_fraction, path)
    images = images[chosen]
    labels = None if labels is None else labels[chosen]
  return ArraySource(images, labels, num_classes)


def npz_names(path: str | Path) -> list[str]:
  """Returns the names of the arrays in an npz file.

  Raises FileNotFoundError, or ValueError in one line for another kind of file.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'there is no npz file {path}')
  with path.open('rb') as file:
    start = file.read(6)
  if start == np.lib.format.MAGIC_PREFIX:
    raise ValueError(
      f'{path} is a file of one array, not an npz file of arrays: '
      'numpy.savez(file, images=array) gives the array its name'
    )
  if not start.startswith(b'PK'):
    raise ValueError(
      f'{path} is not an npz file of arrays: numpy.savez writes them. Pictures '
      'can be given as a folder of image files'
    )
  return list(_with_npz(path, lambda file: file.files))


def read_npz(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
  """Returns some of the arrays of an npz file by their names.

  Raises ValueError in one line for a damaged file and for Python objects.
  """
  return _with_npz(
    path, lambda file: {name: np.asarray(file[name]) for name in names}
  )


def _with_npz(path, function):
  try:
    # Opened here, because NumPy leaves the file of a damaged archive open.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      return function(file)
  except UNREADABLE as error:
    reason = str(error) or type(error).__name__
    if 'allow_pickle' in reason:
      reason = 'it has Python objects, which are not read'
    raise ValueError(f'{path} is not an npz file of arrays: {reason}') from None


class NoTestSplit(ValueError):
  """Says that a data set has a train split alone."""


def check_split(split: str) -> None:
  """Raises ValueError for a split other than 'train', 'test'."""
  if split not in ('train', 'test'):
    raise ValueError(f"split {split!r} is not one of 'train', 'test'")


def check_fraction(test_fraction: float, split: str, path: str | Path) -> None:
  """Raises ValueError if test_fraction cannot make the split of `path`."""
  if not 0.0 <= test_fraction < 1.0:
    raise ValueError(f'test_fraction={test_fraction} is not in [0, 1)')
  if split == 'test' and not test_fraction:
    raise NoTestSplit(
      f'{path} has no test split: set test_fraction, 0.1 for instance, to '
      'keep a part of it for tests'
    )


def _fixed_part(size, split, test_fraction, path):
  # Returns the indices of a split, which are the same in every run.
  check_fraction(test_fraction, split, path)
  count = round(size * test_fraction)
  if not 0 < (count if split == 'test' else size - count):
    raise ValueError(
      f'test_fraction={test_fraction} of the {size} images of {path} leaves '
      f'none for the {split} split'
    )
  order = np.random.default_rng(0).permutation(size)
  return np.sort(order[:count] if split == 'test' else order[count:])


def _check_labels(name, labels, size, num_classes):
  if labels.shape != (size,) or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'{name} are {labels.dtype} {list(labels.shape)}, not int [{size}]'
    )
  low, high = labels.min(), labels.max()
  if low < 0 or high >= num_classes:
    raise ValueError(
      f'{name} are {low}..{high}, which num_classes={num_classes} does not hold'
    )
  return labels.astype(np.int32)

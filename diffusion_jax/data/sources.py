"""Sources of images: uint8, read by index, with optional labels."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, cast

import numpy as np

from diffusion_jax.ranges import Count, ImageShape, Size


class Facts(NamedTuple):
  """The facts about the images that a model needs."""

  image_shape: ImageShape
  num_classes: Count
  num_levels: Size


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


def in_batches(source: Source, size: int) -> Iterator[np.ndarray]:
  """Yields all images of a source in order, uint8 [<= size, H, W, C]."""
  for start in range(0, len(source), size):
    yield source.read(np.arange(start, min(start + size, len(source))))[0]


def texts_of(source: Source, index: np.ndarray) -> list[str]:
  """Returns the n sentences of a source that must be a `TextSource`."""
  return cast(TextSource, source).texts(index)


class OrderedSource(Source, Protocol):
  """Describes a source that orders its epochs, to be read in blocks."""

  @property
  def order(self) -> Callable[[np.random.Generator], np.ndarray] | None:
    """Draws a permutation of 0..N - 1 for an epoch; None: a uniform one."""
    ...


class RedrawnSource(Source, Protocol):
  """Describes a source of random images, such as `Binarized`."""

  def redrawn(self, seed: int, epoch: np.ndarray) -> Source:
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    ...


ADVICE = (
  'give grey levels, or train on arrays of real numbers with the library '
  '(docs/library.md#arrays-that-are-not-pictures)'
)


def check_images(images: np.ndarray) -> np.ndarray:
  """Returns images uint8 [n, H, W, C]; raises ValueError for other arrays."""
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'images must be uint8 [n, H, W, C], got {images.dtype} '
      f'{list(images.shape)}: {ADVICE}'
    )
  return images


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Holds a data set in memory.

  images: uint8 [N, H, W, C] with values 0..num_levels - 1; labels: int32 [N] in
  0..num_classes - 1, or None with num_classes 0. Raises ValueError for other
  images.
  """

  images: np.ndarray
  labels: np.ndarray | None = None
  num_classes: int = 0
  num_levels: int = 256
  in_memory = True

  def __post_init__(self):
    check_images(self.images)

  def __len__(self) -> int:
    return len(self.images)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    labels = None if self.labels is None else self.labels[index]
    return self.images[index], labels

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    _, height, width, channels = self.images.shape
    return height, width, channels


class TwoLevels:
  """Thresholds a source: 1 in the upper half of its grey levels, else 0."""

  num_levels = 2

  def __init__(self, source: Source):
    self.source = source
    self.image_shape = source.image_shape
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory
    self.order = getattr(source, 'order', None)

  def __len__(self) -> int:
    return len(self.source)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    images, labels = self.source.read(index)
    upper = images >= (self.source.num_levels + 1) // 2
    return upper.astype(np.uint8), labels


class Binarized:
  """Draws black and white images, x ~ Bernoulli(grey level / highest level).

  `read` draws each image once for all; batches of training draw it anew in each
  epoch (Salakhutdinov & Murray 2008; Burda et al. 2016).
  """

  num_levels = 2

  def __init__(self, source: Source):
    self.source = source
    self.image_shape = source.image_shape
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory
    self.order = getattr(source, 'order', None)
    self._seeds: Callable[[int], tuple[int, ...]] = lambda row: (0,)

  def __len__(self) -> int:
    return len(self.source)

  def redrawn(self, seed: int, epoch: np.ndarray) -> 'Binarized':
    """Returns the source whose row i of `read` is drawn for epoch[i]."""
    other = Binarized(self.source)
    other._seeds = lambda row: (1, seed, int(epoch[row]))
    return other

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    images, labels = self.source.read(index)
    uniform = [
      np.random.default_rng((*self._seeds(row), int(i))).random(
        images.shape[1:]
      )
      for row, i in enumerate(index)
    ]
    highest = self.source.num_levels - 1
    x = np.reshape(uniform, images.shape) * highest < images
    return x.astype(np.uint8), labels

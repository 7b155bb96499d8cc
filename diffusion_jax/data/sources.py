"""Where images come from: random access, uint8, with labels if any."""

from typing import NamedTuple

import numpy as np


class ArraySource(NamedTuple):
  """A data set that fits in memory.

  images: uint8 [N, H, W, C] with values 0..num_levels - 1; labels: int32 [N] in
  0..num_classes - 1, or None with num_classes 0.
  """

  images: np.ndarray
  labels: np.ndarray | None = None
  num_classes: int = 0
  num_levels: int = 256

  def __len__(self) -> int:
    return len(self.images)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.images.shape[1:]


def digits(split: str = 'train') -> ArraySource:
  """The 8x8 handwritten digits that ship with scikit-learn, 17 grey levels.

  1,797 real pictures (UCI, Alpaydin & Kaynak 1998), split once and for all:
  'train' 1,437, 'test' 360. No download.
  """
  from sklearn.datasets import load_digits

  data = load_digits()
  order = np.random.default_rng(0).permutation(len(data.images))
  splits = {'train': order[360:], 'test': order[:360]}
  if split not in splits:
    raise ValueError(f"split {split!r} is not one of 'train', 'test'")
  chosen = splits[split]
  images = data.images[chosen, :, :, None].astype(np.uint8)
  return ArraySource(images, data.target[chosen].astype(np.int32), 10, 17)


def synthetic(
  split: str = 'train',
  image_shape: tuple[int, int, int] = (32, 32, 3),
  num_classes: int = 10,
  num_images: int = 256,
) -> ArraySource:
  """Discs on a plain ground, made on the spot: to try a program without data.

  The class is the hue of the disc; its place, its size and the ground are
  random. 'train' and 'test' are different pictures.
  """
  if split not in ('train', 'test'):
    raise ValueError(f"split {split!r} is not one of 'train', 'test'")
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

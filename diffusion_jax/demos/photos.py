"""Crops of a few photos as a source of images."""

from collections.abc import Sequence

import numpy as np

from diffusion_jax.data.images import photo_path, read_image, with_channels
from diffusion_jax.data.sources import pictures
from diffusion_jax.data.splits import check_fraction, check_split
from diffusion_jax.data.sums import digest
from diffusion_jax.declared import declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import ImageShape, Rate, Size


class CropSource:
  """Reads every crop of size image_shape from every photo.

  photos: uint8 [h, w, C] each. The index counts the crops by rows, photo after
  photo, so that a random permutation samples positions uniformly.
  """

  in_memory = True

  def __init__(self, photos: Sequence[np.ndarray], image_shape: tuple[int, int, int]):
    height, width, channels = image_shape
    self.facts = pictures((height, width, channels))
    self._photos = photos
    self._windows = [
      np.lib.stride_tricks.sliding_window_view(photo, (height, width), (0, 1))
      for photo in photos  # Views [rows, columns, C, H, W], not copies.
    ]
    places = [view.shape[0] * view.shape[1] for view in self._windows]
    self._ends = np.cumsum(places)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def checksum(self) -> str:
    """Returns a sum of the photos and of the size of crops."""
    return digest([repr(self.facts.x.shape).encode(), *self._photos])

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {'x': crops uint8 [n, H, W, C]}."""
    crops = np.empty((len(index), *self.facts.x.shape), np.uint8)
    photo = np.searchsorted(self._ends, index, side='right')
    for i in np.unique(photo):
      view, chosen = self._windows[i], photo == i
      first = self._ends[i] - view.shape[0] * view.shape[1]
      top, left = np.divmod(index[chosen] - first, view.shape[1])
      crops[chosen] = np.moveaxis(view[top, left], 1, -1)
    return {'x': crops}


@declares(what='random crops of a few photos', needs='nothing; or `data.paths`')
def photos(
  paths: Sequence[ReadPath] = (),
  split: str = 'train',
  image_shape: ImageShape = (32, 32, 3),
  shrink: Size = 1,
  test_fraction: Rate = 0.0,
) -> CropSource:
  """Returns the crops of photos, by default of scikit-learn's two photos.

  Photos are first reduced by the factor `shrink`. The test split has crops of
  the right-hand test_fraction of each photo, and 'train' of the rest.
  Raises ValueError or FileNotFoundError that names the photo.
  """
  from PIL import Image

  check_split(split)
  if isinstance(paths, str):
    raise ValueError(f'paths must be a list of files, got the string {paths!r}')
  height, width, channels = image_shape
  parts = []
  for path in paths or ('china.jpg', 'flower.jpg'):
    check_fraction(test_fraction, split, path)
    photo = with_channels(read_image(photo_path(path)), channels)
    if shrink > 1:
      picture = Image.fromarray(photo.squeeze(-1) if channels == 1 else photo)
      photo = np.atleast_3d(np.asarray(picture.reduce(shrink)))
    cut = photo.shape[1] - round(photo.shape[1] * test_fraction)
    part = photo[:, cut:] if split == 'test' else photo[:, :cut]
    if part.shape[0] < height or part.shape[1] < width:
      raise ValueError(
        f'{path} is too small for crops of {height}x{width}: its {split} part '
        f'is {part.shape[0]}x{part.shape[1]} pixels (shrink={shrink}, '
        f'test_fraction={test_fraction})'
      )
    parts.append(part)
  return CropSource(parts, image_shape)

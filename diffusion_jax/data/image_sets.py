"""Sets of images in files: samples of this and other projects, references.

An npz file contains `arr_0`, uint8 [N, H, W, C], as `--mode=sample` and ADM's
programs write it; or the statistics of features, `mu` and `sigma` (`mu_s`,
`sigma_s` of spatial features), as EDM's and ADM's references; or both; or
`features` [N, D]. The array `protocol` is JSON that says what features and
statistics depend on. A folder contains image files of one size.
"""

import functools
import json
import zipfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.data import image_folder, images, npz
from diffusion_jax.data.sources import check_channels
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.paths import existing

IMAGES = 'arr_0', 'images'  # names of the images in an npz file
# Names of the arrays that are read with the images.
ARRAYS = ('mu', 'sigma', 'mu_s', 'sigma_s', 'labels', 'texts', 'features', 'protocol')


class ImageSet(NamedTuple):
  """Holds the contents of a file or folder; shape is (0,) without images.

  batches: (n) -> iterator of uint8 [<= n, H, W, C], all images in order.
  arrays: other arrays by name, such as labels, features, mu, sigma. protocol:
  how mu and sigma were computed, {} if it is unknown.
  """

  name: str
  shape: tuple[int, ...]
  batches: Callable[[int], Iterator[np.ndarray]]
  arrays: dict[str, np.ndarray]
  protocol: Json


def read(path: str | Path, more: Collection[str] = (), any_shape: bool = False) -> ImageSet:
  """Opens a folder of images or an npz file; `batches` reads the images.

  more: names of other arrays to read, if the file has them. any_shape: the npz
  file has real numbers or texts, which stay as they are. Raises ValueError or
  OSError that names the file.
  """
  path = existing(path, 'file or folder')
  if path.is_dir():
    return _read_folder(path)
  return _read_npz(path, more, any_shape)


def take(source: ImageSet, index: np.ndarray, size: int = 1000) -> np.ndarray:
  """Returns the images at index [n] in this order; reads the set once."""
  pictures, start = {}, 0
  for batch in source.batches(size):
    for i in index[(index >= start) & (index < start + len(batch))]:
      pictures[i] = batch[i - start]
    start += len(batch)
  return np.stack([pictures[i] for i in index])


def check_same_size(first: ImageSet, second: ImageSet) -> None:
  """Raises ValueError if both have images, of different sizes."""
  a, b = ('x'.join(map(str, each.shape[1:])) for each in (first, second))
  if a and b and a != b:
    raise ValueError(
      f'images must have the same size to be compared: {first.name} has {a}, {second.name} {b}'
    )


def _read_npz(path, more, any_shape):
  if path.suffix.lower() in ('.pkl', '.pickle'):
    raise ValueError(
      f'{path} is a pickle, which may run code and is not read: where you trust it, '
      "load it as d and write numpy.savez('a.npz', mu=d['mu'], sigma=d['sigma'])"
    )
  names = npz.names_of(path, 'images')
  given = [name for name in IMAGES if name in names]
  if len(given) > 1:
    raise ValueError(f'{path} has {" and ".join(given)}, which both may be the images: keep one')
  name = next(iter(given), None)
  wanted = {*ARRAYS, *more} - {*IMAGES}
  arrays = npz.read(path, [n for n in names if n in wanted])
  try:
    protocol = json.loads(str(arrays.pop('protocol', '{}')))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: protocol is not JSON: {error}') from None
  if name is None and not {'mu', 'features'} & set(arrays):
    raise ValueError(
      f'{path} has the arrays {", ".join(names) or "none"}; it must contain '
      'images or arr_0 (uint8 [N, H, W, C]), features [N, D], or mu and sigma'
    )
  if name is None:
    return ImageSet(str(path), (0,), lambda size: iter(()), arrays, protocol)
  with npz.reading(path), zipfile.ZipFile(path) as archive:
    with archive.open(f'{name}.npy') as file:
      shape, _, dtype = npz.header(file)
  fits = len(shape) in (3, 4) or any_shape and len(shape) > 1
  if not fits or min(shape) < 1 or dtype.kind not in 'uif':
    raise ValueError(f'{path}: {name} must be uint8 [N, H, W, C], got {dtype} {list(shape)}')
  shape = (*shape, 1) if len(shape) == 3 and not any_shape else shape
  check_channels(ArraySpec(shape[1:], 0 if any_shape else 256))
  batches = functools.partial(_stream, path, name, any_shape)
  return ImageSet(str(path), shape, batches, arrays, protocol)


def _stream(path, name, any_shape, size):
  # Yields the images of an npz file, with one batch in memory at a time.
  with zipfile.ZipFile(path) as archive, archive.open(f'{name}.npy') as file:
    shape, fortran, dtype = npz.header(file)
    if fortran:
      raise ValueError(f'{path}: {name} is in Fortran order; save it in C order')
    each, most = int(np.prod(shape[1:])) * dtype.itemsize, 0
    for start in range(0, shape[0], size):
      count = min(size, shape[0] - start)
      with npz.reading(path):
        data = file.read(count * each)
      if len(data) < count * each:
        raise ValueError(f'{path} ends before its last image')
      batch = np.frombuffer(data, dtype).reshape(count, *shape[1:])
      if any_shape:
        yield batch
        continue
      batch = batch[..., None] if batch.ndim == 3 else batch
      most = max(most, batch.max())
      yield _as_uint8(batch, f'{path}: {name}')
    # Some pictures may be black, but not all: those have other levels.
    if not any_shape and dtype != np.uint8 and most <= 1:
      raise _not_levels(f'{path}: {name}', dtype, 0, most)


def _as_uint8(batch, name):
  # Accepts other types only if the numbers are grey levels 0..255.
  if batch.dtype == np.uint8:
    return batch
  low, high = batch.min(), batch.max()
  if not (low >= 0 and high <= 255 and np.all(batch == np.rint(batch))):
    raise _not_levels(name, batch.dtype, low, high)
  return batch.astype(np.uint8)


def _not_levels(name, dtype, low, high):
  return ValueError(
    f'{name} must have levels 0..255, got {dtype} from {low:.4g} to '
    f'{high:.4g}: save round(127.5 (x + 1)) of images in [-1, 1] as uint8'
  )


def _read_folder(path):
  paths = [path / name for name in image_folder.pictures_in(path)]
  size = images.read_image(paths[0]).shape[:2]
  channels = 1 if all(map(_is_grey, paths)) else 3

  def load(each):
    image = images.read_image(each)
    if image.shape[:2] != size:
      raise ValueError(
        f'all images must have one size: {each} is '
        f'{image.shape[0]}x{image.shape[1]}, {paths[0]} is {size[0]}x{size[1]}'
      )
    return image[..., :channels]

  def batches(count):
    with ThreadPoolExecutor(8) as pool:
      for start in range(0, len(paths), count):
        yield np.stack(list(pool.map(load, paths[start : start + count])))

  shape = len(paths), *size, channels
  return ImageSet(str(path), shape, batches, {}, {})


def _is_grey(path):
  # Reads the header only. Files that Pillow cannot read are reported later.
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(path) as image:
      return image.mode in ('1', 'L')
  except (UnidentifiedImageError, OSError, ValueError):
    return False

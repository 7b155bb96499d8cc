"""Files of NumPy arrays: read without pickles, and as a source of images."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from diffusion_jax.data.images import existing
from diffusion_jax.data.sources import ADVICE, ArraySource
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.ranges import Count, Rate


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
  names = names_of(path)
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
  images, *labels = read(path, needed).values()
  if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
    raise ValueError(
      f'{path}: images must be uint8 [N, H, W, C] or [N, H, W], got '
      f'{images.dtype} {list(images.shape)}: {ADVICE}'
    )
  images = images[..., None] if images.ndim == 3 else images
  labels = (
    _checked(path, labels[0], len(images), num_classes) if labels else None
  )
  if not has_test:
    index = random_part(len(images), split, test_fraction, path)
    images = images[index]
    labels = None if labels is None else labels[index]
  return ArraySource(images, labels, num_classes)


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


def names_of(path: str | Path) -> list[str]:
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
  return list(_with_file(path, lambda file: file.files))


def read(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
  """Returns arrays of an npz file by their names, in this order.

  Raises ValueError in one line for a damaged file and for Python objects.
  """
  return _with_file(
    path, lambda file: {name: np.asarray(file[name]) for name in names}
  )


def _with_file(path, function):
  # NumPy itself would not close the file of a damaged archive.
  existing(path, 'npz file', Path.is_file)  # A pipe would hang.
  with reading(path), open(path, 'rb') as raw:
    with np.load(raw, allow_pickle=False) as file:
      return function(file)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
  """Turns the errors of a damaged npz file into ValueError, in one line."""
  try:
    yield
  except Exception as error:  # NumPy and zipfile have many.
    reason = str(error) or type(error).__name__
    if 'allow_pickle' in reason:
      reason = 'it contains Python objects, which are not read'
    raise ValueError(f'{path} is not an npz file of arrays: {reason}') from None

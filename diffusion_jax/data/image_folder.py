"""Folders of image files of any sizes, read from disk as they are needed."""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.data.images import fit, read_image, with_channels
from diffusion_jax.data.sources import check_fraction, check_split
from diffusion_jax.ranges import ImageShape, Rate

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')


class FileSource:
  """Reads image files, cropped at the centre and resized to image_shape."""

  num_levels = 256
  in_memory = False

  def __init__(
    self,
    paths: Sequence[Path],
    image_shape: tuple[int, int, int],
    labels: np.ndarray | None = None,
    num_classes: int = 0,
    root: Path = Path(),
  ):
    height, width, channels = image_shape
    self.image_shape = height, width, channels
    self.num_classes = num_classes
    self._paths = paths
    self._labels = labels
    self._root = root
    self._texts: list[str] = []

  def __len__(self) -> int:
    return len(self._paths)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images uint8 [n, H, W, C] and labels int32 [n] or None."""
    height, width, channels = self.image_shape
    images = np.empty((len(index), *self.image_shape), np.uint8)
    for image, i in zip(images, index, strict=True):
      picture = fit(read_image(self._paths[i]), (height, width))
      image[:] = with_channels(picture, channels)
    return images, None if self._labels is None else self._labels[index]

  def texts(self, index: np.ndarray) -> list[str]:
    """Returns the n captions of a source that `captioned` made."""
    return [self._texts[i] for i in index]


def captioned(source: FileSource) -> FileSource:
  """Returns the source with the captions of metadata.jsonl in its folder.

  Its lines are {"file_name": "cats/1.png", "text": "a cat"}; the name is
  relative to the folder. Raises ValueError that names the line or the image, or
  FileNotFoundError.
  """
  path = source._root / 'metadata.jsonl'
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no {path}: it has the captions, a line '
      '{"file_name": "cats/1.png", "text": "a cat"} for each picture'
    )
  try:
    lines = path.read_text().splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is no text in UTF-8: {error}') from None
  known = {}
  for number, line in enumerate(lines, 1):
    if line.strip():
      name, text = _caption(f'{path}, line {number}', line)
      known[(source._root / name).resolve()] = text
  result = copy.copy(source)
  try:
    result._texts = [known[picture.resolve()] for picture in source._paths]
  except KeyError as error:
    raise ValueError(f'{error.args[0]} has no line in {path}') from None
  return result


def _caption(place, line):
  try:
    found = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f'{place} is not JSON: {error}') from None
  for key in ('file_name', 'text'):
    value = found.get(key) if isinstance(found, dict) else None
    if not (isinstance(value, str) and value.strip()):
      raise ValueError(f'{place} has no "{key}" with some text')
  return found['file_name'], found['text']


def folder(
  path: str | Path,
  split: str = 'train',
  image_shape: ImageShape = (64, 64, 3),
  labelled: bool = False,
  test_fraction: Rate = 0.0,
) -> FileSource:
  """Returns the images in a folder and its sub-folders, sorted by name.

  labelled: the sub-folders, sorted, are the classes 0, 1, ... If there is a
  sub-folder `train`, it is the train split, and `test` or `val` beside it the
  test split. Otherwise a hash of its name decides whether an image is in the
  test split, with probability test_fraction. Hidden files are left out. Raises
  ValueError or FileNotFoundError.
  """
  check_split(split)
  top = Path(path).expanduser()
  if top.is_file():
    raise ValueError(
      f'{path} is a file, not a folder: data=npz reads npz files'
    )
  if not top.is_dir():
    raise FileNotFoundError(f'there is no folder {path}')
  train = top / 'train' if (top / 'train').is_dir() else top
  held_out = [top / name for name in ('test', 'val') if (top / name).is_dir()]
  apart = train != top and bool(held_out)
  root = held_out[0] if apart and split == 'test' else train
  found = names = _pictures(root)
  if not found:
    raise FileNotFoundError(
      f'there are no pictures in {root} ({", ".join(SUFFIXES)})'
    )
  if not apart:
    check_fraction(test_fraction, split, path)
    test = split == 'test'
    names = [name for name in found if _is_test(name, test_fraction) == test]
    if not names:
      raise ValueError(
        f'test_fraction={test_fraction} of the {len(found)} pictures in {root} '
        f'leaves none for the {split} split'
      )
  paths = [root / name for name in names]
  if not labelled:
    return FileSource(paths, image_shape, root=root)
  known = found if root == train else _pictures(train)
  classes = sorted({name.partition('/')[0] for name in known if '/' in name})
  labels = _labels(root, names, classes)
  return FileSource(paths, image_shape, labels, len(classes), root)


def _pictures(root):
  # Returns names relative to root, with /. Links to folders are followed.
  names = []
  for place, folders, files in os.walk(root, onerror=_fail, followlinks=True):
    folders[:] = [name for name in folders if not name.startswith('.')]
    below = Path(place).relative_to(root).as_posix()
    prefix = '' if below == '.' else f'{below}/'
    names += [
      prefix + name
      for name in files
      if name.lower().endswith(SUFFIXES) and not name.startswith('.')
    ]
  return sorted(names)


def _fail(error):
  raise error  # By default os.walk leaves out folders that it may not read.


def _is_test(name, test_fraction):
  # An image stays in its split when others are added.
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8]) < test_fraction * 2.0**64


def _labels(root, names, classes):
  numbers = {name: i for i, name in enumerate(classes)}
  for name in names:
    if '/' not in name:
      raise ValueError(
        f'{root / name} is in no sub-folder, so it has no class: move it, or '
        'set num_classes=0'
      )
    if name.partition('/')[0] not in numbers:
      raise ValueError(
        f'{root / name} is of a class that the train split does not have'
      )
  return np.array([numbers[n.partition('/')[0]] for n in names], np.int32)

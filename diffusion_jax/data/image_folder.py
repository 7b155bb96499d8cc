"""Folders of image files of any size, which are read when they are needed."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.data.damage import damaged, left_out, problem
from diffusion_jax.data.images import check_picture, read_image, resized
from diffusion_jax.data.set_files import readable, say_left_out, taken_below
from diffusion_jax.data.sources import pictures
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.splits import check_fraction, check_part, check_split
from diffusion_jax.data.sums import digest, of_files
from diffusion_jax.declared import Free, declares
from diffusion_jax.paths import ReadPath, existing
from diffusion_jax.ranges import ImageShape, Rate

CAPTIONS = 'metadata.jsonl'
_EXAMPLE = '{"file_name": "cats/1.png", "text": "a cat"}'
SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.avif', '.bmp', '.gif',
  '.tif', '.tiff',
)  # fmt: skip
TEST_FOLDERS = 'test', 'val', 'validation'


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
  """Reads image files, cropped at the centre and resized to facts.x.shape.

  labels: int32 [N] or None; captions: N texts, see `captioned`; root: the
  folder of metadata.jsonl.
  """

  paths: Sequence[Path]
  facts: Facts
  labels: np.ndarray | None = None
  root: Path = Path()
  captions: Sequence[str] = ()
  in_memory = False

  def __len__(self) -> int:
    return len(self.paths)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    images = (read_image(self.paths[i]) for i in index)
    arrays = {'x': resized(images, self.facts.x.shape)}
    if self.labels is not None:
      arrays['label'] = self.labels[index]
    if self.captions:
      arrays['text'] = np.array([self.captions[int(i)] for i in index])
    return arrays

  def read_labels(self, index: np.ndarray) -> np.ndarray:
    """Returns the labels of examples."""
    assert self.labels is not None  # only sources with labels are asked
    return self.labels[index]

  def checksum(self) -> str:
    """Returns the sum of all names, files, labels and captions."""
    names = [os.fsencode(path)[len(bytes(self.root)) :] for path in self.paths]
    labels = [] if self.labels is None else [self.labels]
    content = of_files(self.paths).encode()
    return digest([content, *names, *labels, *map(str.encode, self.captions)])


def captioned(source: FileSource) -> FileSource:
  """Returns the source with the captions of metadata.jsonl in its folder.

  Its lines are {"file_name": "cats/1.png", "text": "a cat"}, one for each picture;
  names are relative to the folder. Lines of pictures that are not there are left
  out. Raises ValueError that names the line or the image, or FileNotFoundError.
  """
  path = source.root / CAPTIONS
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing: it must have a line {_EXAMPLE} for each picture')
  captions = {}
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    if line.strip():
      name, text = _caption(f'{path}, line {number}', line)
      picture = (source.root / name).resolve()
      if picture in captions:
        raise ValueError(
          f'{path}, line {number}: {name} has a text already: give each picture one line, or set '
          'data=huggingface, which takes each line for an example'
        )
      captions[picture] = text
  places = [picture.resolve() for picture in source.paths]
  lost = sorted(str(x) for x in captions.keys() - {*places} if not x.exists())
  say_left_out(path, len(lost), len(captions), 'lines', lost, 'there is no such picture')
  try:
    texts = [captions[place] for place in places]
  except KeyError as error:
    raise ValueError(f'{error.args[0]} has no line in {path}') from None
  return dataclasses.replace(source, captions=texts)


def _caption(place, line):
  with contextlib.suppress(ValueError, TypeError, KeyError):
    entry = json.loads(line)
    caption = entry['file_name'], entry['text']
    if all(isinstance(value, str) and value.strip() for value in caption):
      return caption
  raise ValueError(f'{place} must be like {_EXAMPLE}')


@declares(what='a folder of pictures of any sizes', needs='`data.path`')
def folder(
  path: ReadPath | Path,
  split: str = 'train',
  image_shape: ImageShape = (64, 64, 3),
  labelled: bool = False,
  test_fraction: Rate = 0.0,
  check: Free[bool] = False,
  skip_damaged: bool = False,
) -> FileSource:
  """Returns the images in a folder and its sub-folders, sorted by name.

  labelled: the sub-folders, sorted, are the classes 0, 1, ... A sub-folder
  `train` is the train split, and one of TEST_FOLDERS next to it the test split.
  Otherwise a hash of its name decides whether an image is in the test split,
  with probability test_fraction. Hidden files are ignored. Damaged headers are
  refused, and damaged pixels if check; skip_damaged leaves both out. Raises
  ValueError or FileNotFoundError.
  """
  check_split(split)
  others = '; data=folder reads the pictures below a folder, data=npz and csv a file'
  top = existing(path, 'folder', Path.is_dir, others)
  train = top / 'train' if (top / 'train').is_dir() else top
  held_out = [top / name for name in TEST_FOLDERS if (top / name).is_dir()]
  has_test = train != top and bool(held_out)
  root = held_out[0] if has_test and split == 'test' else train
  if train != top:
    _say_beside(top, [train, *held_out[:1]])
  found = names = pictures_in(root)
  if not has_test:
    check_fraction(test_fraction, split, path)
    test = split == 'test'
    names = [n for n in found if _is_test(n, test_fraction) == test]
    check_part(len(names), len(found), test_fraction, split, f'pictures in {root}')
  names, others = _intact(root, names, check or skip_damaged, skip_damaged)
  paths = [root / name for name in names]
  classes, labels = [], None
  if labelled:
    of_train = found if root == train else pictures_in(train)
    classes = sorted({n.partition('/')[0] for n in of_train if '/' in n})
    labels = _labels(root, names, classes)
  facts = pictures(image_shape, len(classes), map(readable, classes))
  return FileSource(paths, facts._replace(skipped=others), labels, root)


def _say_beside(top, splits):
  # Says which pictures, and folders with pictures, are in no split.
  others = [x for x in sorted(top.iterdir()) if x not in splits and x.name[0] != '.']
  others = [x.name for x in others if _has_pictures(x)]
  why = f'the splits are {" and ".join(x.name for x in splits)}'
  say_left_out(top, len(others), 0, 'pictures or folders of pictures', others, why)


def _has_pictures(place):
  # Reads a folder up to its first picture.
  below = ([place.name],) if place.is_file() else (names for *_, names in os.walk(place))
  return any(x[0] != '.' and x.lower().endswith(SUFFIXES) for names in below for x in names)


def _intact(root, names, pixels, skip):
  # Returns (the names of pictures that can be read, names of the others).
  files = tuple((name, _stamp(root / name)) for name in names)
  errors = _errors(root, files, pixels)
  others = tuple(readable(names[i]) for i in errors)
  left_out(errors, len(names), others, str(root), skip)
  return [x for i, x in enumerate(names) if i not in errors], others


def _stamp(path):
  with contextlib.suppress(OSError):  # A link may lead nowhere.
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8)  # A mode opens its data several times.
def _errors(root, files, pixels):
  def problems(block):
    paths = [root / files[i][0] for i in block]
    return [problem(check_picture, path, path, pixels) for path in paths]

  return damaged(problems, len(files), f'checking pictures in {root}')


def pictures_in(root: Path) -> list[str]:
  """Returns the names of all pictures below a folder; see `taken_below`.

  Raises FileNotFoundError without pictures.
  """
  pictures = taken_below(root, SUFFIXES, [CAPTIONS])
  if not pictures:
    raise FileNotFoundError(f'{root} contains no pictures ({", ".join(SUFFIXES)})')
  return pictures


def _is_test(name, test_fraction):
  # An image stays in its split when others are added.
  digest = hashlib.sha256(os.fsencode(name)).digest()
  return int.from_bytes(digest[:8]) < test_fraction * 2.0**64


def _labels(root, names, classes):
  numbers = {name: i for i, name in enumerate(classes)}
  for name in names:
    if '/' not in name or name.partition('/')[0] not in numbers:
      raise ValueError(
        f'{root / name} is not in a sub-folder of a class of the train split: '
        'move it, or set labelled=False'
      )
  return np.array([numbers[n.partition('/')[0]] for n in names], np.int32)

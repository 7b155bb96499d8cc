"""SHA-256 of every file of a checkpoint, kept beside them.

The file is that of `sha256sum`, so `sha256sum -c SHA256SUMS` checks a folder
by hand. Storage does flip bits, and the format of the arrays detects few of
them.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

NAME = 'SHA256SUMS'
# Marks a checkpoint that was written with sums, so that a lost file is noticed.
MARK = {'checksums': NAME}
# Orbax adds a time to this file after the sums were written; these are of a
# copy of it.
_METADATA = '_CHECKPOINT_METADATA'
_COPY = 'metadata.json'
_LATER = (NAME, _METADATA, 'commit_success.txt')


def write(folder: Path) -> None:
  """Writes the sums of the files in `folder`, which are complete."""
  (folder / _COPY).write_text(json.dumps(_read(folder / _METADATA)))
  lines = [
    f'{digest(folder / name)}  {name}\n'
    for name in _names(folder)
    if name not in _LATER
  ]
  (folder / NAME).write_text(''.join(lines))


def exist(folder: Path) -> bool:
  """Returns False for a checkpoint of a version that wrote no sums."""
  if (folder / NAME).is_file():
    return True
  if (folder / _COPY).is_file():
    return True
  try:
    found = _read(folder / _METADATA)
  except (OSError, ValueError):
    return True  # A checkpoint of any version has this file.
  return bool(MARK.items() & (found.get('custom_metadata') or {}).items())


def find_damage(folder: Path, items: Iterable[str] | None = None) -> str:
  """Returns what is wrong with a checkpoint that has sums, '' for nothing.

  items: the sub-folders that are checked, each with all its files; None is all.
  """
  try:
    lines = (folder / NAME).read_text().splitlines()
    pairs = (line.split('  ', 1) for line in lines)
    sums = {name: digest for digest, name in pairs}
    same = _read(folder / _METADATA) == _read(folder / _COPY)
  except FileNotFoundError as error:
    return f'{Path(error.filename).name} is missing'
  except (OSError, ValueError):
    return f'{_METADATA} or {NAME} is unreadable'
  if not same:
    return f'{_METADATA} is not what was written'
  checked = None if items is None else {*items, _COPY}
  for name in sorted({*sums, *_names(folder)} - {*_LATER}):
    if checked is None or name.partition('/')[0] in checked:
      try:
        if digest(folder / name) != sums.get(name):
          return f'{name} is not what was written'
      except FileNotFoundError:
        return f'{name} is missing'
      except OSError as error:
        return f'{name} cannot be read ({error.strerror})'
  return ''


def digest(path: Path) -> str:
  """Returns the SHA-256 of a file."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def of_arrays(tree: Any) -> int:
  """Returns the CRC-32 of all numbers of a tree, to identify weights."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  return value


def _read(path):
  # Everything but the time that Orbax adds.
  found = json.loads(path.read_text())
  if not isinstance(found, dict):
    raise ValueError(f'{path} is no JSON object')
  return found | {'commit_timestamp_nsecs': None}


def _names(folder):
  # Orbax writes no hidden files.
  paths = [path for path in folder.rglob('[!.]*') if path.is_file()]
  return sorted(path.relative_to(folder).as_posix() for path in paths)

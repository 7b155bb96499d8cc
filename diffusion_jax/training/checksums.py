"""SHA-256 of every file of a folder, stored in SHA256SUMS.

`sha256sum -c SHA256SUMS` checks a folder by hand. Storage does flip bits, and
the format of the arrays detects few of them. Checkpoints whose files differ
from what was written are not read, and moved away. Files that other programs
add, such as desktop.ini, do no harm.
"""

import itertools
import json
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.aliases import PyTree
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import (
  make_folder,
  one_line,
  open_regular,
  read_json,
  sha256,
  write_text,
)

NAME = 'SHA256SUMS'
# Marks a checkpoint with sums, so that a lost SHA256SUMS is noticed.
MARK = {'checksums': NAME}
# Orbax adds a time to this file after the sums are written, so the sums contain
# a copy of it.
_METADATA = '_CHECKPOINT_METADATA'
_COPY, _COUNT = 'metadata.json', 'files'  # and the number of sums
_LATER = (NAME, _METADATA, 'commit_success.txt')


def wait_for_metadata(folder: Path, seconds: float = 60.0) -> None:
  """Waits until Orbax has written the metadata of a checkpoint.

  A thread of Orbax writes the file, with `MARK` at last, and on a busy machine
  after the arrays. Raises TimeoutError after `seconds`.
  """
  end = time.monotonic() + seconds
  while not _is_marked(folder, unreadable=False):
    if time.monotonic() > end:
      raise TimeoutError(f'{folder / _METADATA} was not written')
    time.sleep(0.01)


def write(folder: Path) -> None:
  """Writes the sums of the files in `folder`, which are complete."""
  names = {*_names(folder), _COPY} - {*_LATER}
  copy = {**_read(folder / _METADATA), _COUNT: len(names)}
  write_text(folder / _COPY, json.dumps(copy))
  write_sums(folder, {name: sha256(folder / name) for name in names})


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
  """Writes SHA256SUMS, whole or not at all. sums: {name: SHA-256}."""
  lines = [f'{sums[name]}  {name}\n' for name in sorted(sums)]
  write_text(folder / NAME, ''.join(lines))


def read_sums(folder: Path) -> dict[str, str]:
  """Returns {name: SHA-256} of SHA256SUMS, without damaged lines."""
  with open_regular(folder / NAME) as file:
    lines = file.read().decode().splitlines()
  parts = (line.partition('  ') for line in lines)
  return {name: digest for digest, gap, name in parts if gap}


def exist(folder: Path) -> bool:
  """Returns False for a checkpoint of an earlier version without sums."""
  written = any((folder / name).is_file() for name in (NAME, _COPY))
  # A checkpoint of any version has metadata.
  return written or _is_marked(folder, unreadable=True)


def find_damage(folder: Path, items: Iterable[str] | None = None) -> str:
  """Returns the damage of a checkpoint with sums, or ''.

  items: the sub-folders to check, with all their files; None for all. Names the
  files that are in none of the lines of complete sums in a warning.
  """
  try:
    sums = read_sums(folder)
    copy = _read(folder / _COPY)
    complete = copy.pop(_COUNT, None) == len(sums)
    same = _read(folder / _METADATA) == copy
  except FileNotFoundError as error:
    return f'{Path(error.filename).name} is missing'
  except (OSError, UserError, ValueError):
    return f'{_METADATA} or {NAME} is unreadable'
  if not same:
    return f'{_METADATA} is not what was written'
  checked = None if items is None else {*items, _COPY}
  names = {*_names(folder)}
  foreign = sorted(names - {*sums, *_LATER})
  for name in sorted({*sums, *(() if complete else foreign)} - {*_LATER}):
    if checked is None or name.partition('/')[0] in checked:
      if name not in names:  # A stranger's line may name any file.
        return f'{name} is missing'
      try:
        if sha256(folder / name) != sums.get(name):
          return f'{name} is not what was written'
      except OSError as error:
        return f'{name} cannot be read ({error.strerror})'
  if foreign and items is None:
    names = ', '.join(foreign[:9]) + ', ...' * (len(foreign) > 9)
    _say(f'{folder} has files of other programs: {names}')
  return ''


def of_arrays(tree: PyTree) -> int:
  """Returns the CRC-32 of all numbers in a tree, which identifies weights."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  return value


def _is_marked(folder, unreadable):
  # Returns whether the metadata have MARK, `unreadable` if they cannot be read.
  try:
    custom = _read(folder / _METADATA).get('custom_metadata')
  except (FileNotFoundError, UserError):
    return unreadable
  return isinstance(custom, dict) and MARK.items() <= custom.items()


def _read(path):
  # Returns the metadata without the time that Orbax adds.
  return {**read_json(path), 'commit_timestamp_nsecs': None}


def _names(folder):
  # Orbax writes no hidden files.
  paths = [path for path in folder.rglob('[!.]*') if path.is_file()]
  return sorted(path.relative_to(folder).as_posix() for path in paths)


def steps_in(folder: Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, in order."""
  paths = (path for path in folder.glob('*') if path.is_dir())
  return sorted(int(path.name) for path in paths if path.name.isdecimal())


def move_damaged(folder: Path) -> None:
  """Moves damaged checkpoints after the newest good one to `damaged/`.

  folder: the folder of the checkpoints. Prints a warning for each. Raises
  ValueError if all checkpoints are damaged.
  """
  steps, good = steps_in(folder), False
  for step in reversed(steps):
    wrong = '' if good else _damage(folder / str(step))
    good = good or not wrong
    wrong = wrong or _unreadable_metrics(folder / str(step))
    if wrong:
      place = make_folder(folder.parent, 'damaged') / str(step)
      others = (place.with_name(f'{step}-{i}') for i in itertools.count(2))
      paths = itertools.chain([place], others)
      target = next(path for path in paths if not path.exists())
      (folder / str(step)).rename(target)
      _say(f'checkpoint {step} is damaged ({wrong}): moved to {target}')
  if steps and not good:
    raise ValueError(
      f'no checkpoint of {folder.parent} is good, all were moved to '
      f'{folder.parent / "damaged"}: start again to train from step 0'
    )


def check(
  folder: Path, step: int, steps: Iterable[int], items: Iterable[str] | None = None
) -> None:
  """Raises ValueError if checkpoint `step` is damaged.

  The message names the newest good one of `steps`. items: the parts of the
  checkpoint to check; None for all.
  """
  wrong = _damage(folder / str(step), items)
  if not wrong:
    return
  others = sorted(set(steps) - {step}, reverse=True)
  good = (n for n in others if not _damage(folder / str(n), items))
  newest = next(good, None)
  advice = f': take checkpoint={newest}, which is good'
  raise ValueError(
    f'checkpoint {step} in {folder.parent} is damaged ({wrong})'
    f'{", and no other is good" if newest is None else advice}'
  )


def _damage(path, items=None):
  if exist(path):
    return find_damage(path, items)
  _say(f'checkpoint {path.name} in {path.parent.parent} has no checksums: it is read unchecked')
  return ''


def _unreadable_metrics(path):
  # Orbax could not open any checkpoint with these.
  try:
    read_json(path / 'metrics' / 'metrics')
  except FileNotFoundError:
    return ''
  except UserError:
    return 'metrics/metrics is unreadable'


def _say(line):
  print(f'warning: {one_line(line)}', file=sys.stderr, flush=True)

"""SHA-256 of every file of a folder, stored in SHA256SUMS.

`sha256sum -c SHA256SUMS` checks a folder by hand. Storage does flip bits, and
the format of the arrays detects few of them. Checkpoints whose files differ
from what was written are not read, and moved away. Files that other programs
add, such as desktop.ini, do no harm.
"""

import itertools
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.aliases import PyTree
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import (
  make_folder,
  open_regular,
  read_json,
  sha256,
  warn,
  write_text,
)

NAME = 'SHA256SUMS'
# Orbax completes this file, which has no data of the run, after the sums.
_METADATA = '_CHECKPOINT_METADATA'
_ARRAYS = '*params/**/d/*'  # the data of parameters
_WITHOUT_SUMS = {NAME, _METADATA, 'commit_success.txt'}


def write(folder: Path) -> None:
  """Writes the sums of the files in `folder`, which are complete."""
  names = _names(folder) - _WITHOUT_SUMS
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


def find_damage(folder: Path, items: Collection[str] | None = None) -> str:
  """Returns the damage of a checkpoint with sums, or ''.

  items: the sub-folders to check, with all their files; None for all. Names the
  files without sums in a warning.
  """
  try:
    read_json(folder / _METADATA)
    sums = read_sums(folder)
  except FileNotFoundError as error:
    return f'{Path(error.filename).name} is missing'
  except (OSError, UserError, ValueError):
    return f'{_METADATA} or {NAME} is unreadable'
  names = _names(folder)
  for name in sorted(sums):
    if items is None or name.partition('/')[0] in items:
      if name not in names:  # A stranger's line may name any file.
        return f'{name} is missing'
      try:
        if sha256(folder / name) != sums[name]:
          return f'{name} is not what was written'
      except OSError as error:
        return f'{name} cannot be read ({error.strerror})'
  foreign = sorted(names - {*sums, *_WITHOUT_SUMS})
  if foreign and items is None:
    listed = ', '.join(foreign[:9]) + ', ...' * (len(foreign) > 9)
    warn(f'{folder} has files of other programs: {listed}')
  return ''


def of_arrays(tree: PyTree) -> int:
  """Returns the CRC-32 of all numbers in a tree, which identifies weights."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  return value


def _names(folder):
  # Orbax writes no hidden files.
  paths = folder.rglob('[!.]*')
  return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


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
    path = folder / str(step)
    wrong = '' if good else _damage(path)
    good = good or not wrong
    wrong = wrong or _unreadable_metrics(path)
    if wrong:
      place = make_folder(folder.parent, 'damaged') / str(step)
      numbered = (place.with_name(f'{step}-{i}') for i in itertools.count(2))
      target = next(x for x in itertools.chain([place], numbered) if not x.exists())
      path.rename(target)
      warn(f'checkpoint {step} is damaged ({wrong}): moved to {target}')
  if steps and not good:
    raise ValueError(
      f'no checkpoint of {folder.parent} is good, all were moved to '
      f'{folder.parent / "damaged"}: start again to train from step 0'
    )


def check(folder: Path, step: int, items: Collection[str] | None = None) -> None:
  """Raises ValueError if checkpoint `step` is damaged, and names a good one.

  items: the parts of the checkpoint to check; None for all.
  """
  wrong = _damage(folder / str(step), items)
  if not wrong:
    return
  others = (n for n in reversed(steps_in(folder)) if n != step)
  newest = next((n for n in others if not _damage(folder / str(n), items)), None)
  advice = f': take checkpoint={newest}, which is good'
  raise ValueError(
    f'checkpoint {step} in {folder.parent} is damaged ({wrong})'
    f'{", and no other is good" if newest is None else advice}'
  )


def latest(folder: Path, steps: Sequence[int]) -> int:
  """Returns the last step whose checkpoint still has arrays, after interrupted removals."""
  for step in reversed(steps):
    path = folder / str(step)
    run_folder.fetch(path)
    if any(path.glob(_ARRAYS)):
      return step
    warn(f'checkpoint {step} in {folder.parent} has no arrays: it is left out')
  return steps[-1]


def _damage(path, items=None):
  run_folder.fetch(path)
  if (path / NAME).is_file():
    return find_damage(path, items)
  needed = _METADATA, 'config/metadata', '*params/_METADATA', _ARRAYS
  if not all(any(path.glob(name)) for name in needed):
    return 'its arrays or their metadata are missing'
  warn(f'checkpoint {path.name} in {path.parent.parent} has no checksums: it is read unchecked')
  return ''


def _unreadable_metrics(path):
  # Orbax could not open any checkpoint with these.
  try:
    read_json(path / 'metrics' / 'metrics')
  except FileNotFoundError:
    return ''
  except UserError:
    return 'metrics/metrics is unreadable'

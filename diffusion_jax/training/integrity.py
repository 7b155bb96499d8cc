"""Finds checkpoints whose files differ from what was written."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import make_folder, read_json
from diffusion_jax.training import checksums


def steps_in(folder: Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, in order."""
  return sorted(
    int(path.name) for path in folder.glob('*') if path.name.isdecimal()
  )


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
      target = _free(make_folder(folder.parent, 'damaged') / str(step))
      (folder / str(step)).rename(target)
      _say(f'checkpoint {step} is damaged ({wrong}): moved to {target}')
  if steps and not good:
    raise ValueError(
      f'no checkpoint of {folder.parent} is good, all were moved to '
      f'{folder.parent / "damaged"}: start again to train from step 0'
    )


def check(
  folder: Path,
  step: int,
  steps: Iterable[int],
  items: Iterable[str] | None = None,
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
  if checksums.exist(path):
    return checksums.find_damage(path, items)
  _say(
    f'checkpoint {path.name} in {path.parent.parent} has no checksums: it is '
    'read unchecked'
  )
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
  print(f'warning: {line}', file=sys.stderr, flush=True)


def _free(path):
  # Returns `path`, or path-2, path-3, ... if it exists.
  others = (path.with_name(f'{path.name}-{i}') for i in itertools.count(2))
  return next(p for p in itertools.chain([path], others) if not p.exists())

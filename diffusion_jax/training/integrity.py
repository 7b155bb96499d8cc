"""Finds checkpoints whose files differ from what was written."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.training import checksums


def move_damaged(folder: Path) -> None:
  """Moves damaged checkpoints newer than the newest good one to `damaged/`.

  folder: that of the checkpoints. Prints a warning for each. Raises ValueError
  if there are checkpoints and none is good.
  """
  steps = sorted(_steps(folder), reverse=True)
  good = False
  for step in steps:
    wrong = '' if good else _damage(folder / str(step))
    good = good or not wrong
    wrong = wrong or _unreadable_metrics(folder / str(step))
    if wrong:
      target = _free(folder.parent / 'damaged' / str(step))
      target.parent.mkdir(exist_ok=True)
      (folder / str(step)).rename(target)
      _say(f'checkpoint {step} is damaged ({wrong}): moved to {target}')
  if steps and not good:
    raise ValueError(
      f'no checkpoint of {folder.parent} is good, all were moved to '
      f'{folder.parent / "damaged"}. Started again, the run begins at step 0'
    )


def check(
  folder: Path,
  step: int,
  steps: Iterable[int],
  items: Iterable[str] | None = None,
) -> None:
  """Raises ValueError if checkpoint `step` is damaged.

  The message names the newest good one of `steps`. items: the parts of the
  checkpoint that are checked; None is all.
  """
  wrong = _damage(folder / str(step), items)
  if not wrong:
    return
  message = f'checkpoint {step} in {folder.parent} is damaged ({wrong})'
  for other in sorted(set(steps) - {step}, reverse=True):
    if not _damage(folder / str(other), items):
      raise ValueError(f'{message}: take checkpoint={other}, which is good')
  raise ValueError(f'{message}, and no other is good')


def _damage(path, items=None):
  if checksums.exist(path):
    return checksums.find_damage(path, items)
  _say(
    f'checkpoint {path.name} in {path.parent.parent} has no checksums: it is '
    'read unchecked'
  )
  return ''


def _unreadable_metrics(path):
  # Orbax would open no checkpoint at all with these.
  try:
    json.loads((path / 'metrics' / 'metrics').read_text())
  except FileNotFoundError:
    return ''
  except (OSError, ValueError):
    return 'metrics/metrics is unreadable'


def _say(line):
  print(f'warning: {line}', file=sys.stderr, flush=True)


def _steps(folder):
  names = [path.name for path in folder.glob('*')]
  return [int(name) for name in names if name.isdecimal()]


def _free(path):
  # Returns `path`, or path-2, path-3, ... if it exists already.
  tries = [path, *(path.with_name(f'{path.name}-{i}') for i in range(2, 1000))]
  return next(path for path in tries if not path.exists())

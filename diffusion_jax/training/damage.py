"""Checkpoints that are not as they were written: named, refused, set aside."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.training import checksums


def set_aside(folder: Path) -> None:
  """Moves damaged checkpoints newer than the newest good one to `damaged/`.

  folder: that of the checkpoints. Each is named on stderr; ValueError if there
  are some, and none is good.
  """
  steps = sorted(_steps(folder), reverse=True)
  good = False
  for step in steps:
    wrong = '' if good else _damage(folder / str(step))
    good = good or not wrong
    wrong = wrong or _unreadable_metrics(folder / str(step))
    if wrong:
      aside = _free(folder.parent / 'damaged' / str(step))
      aside.parent.mkdir(exist_ok=True)
      (folder / str(step)).rename(aside)
      _say(f'checkpoint {step} is damaged ({wrong}): moved to {aside}')
  if steps and not good:
    raise ValueError(
      f'no checkpoint of {folder.parent} is good, all were moved to '
      f'{folder.parent / "damaged"}. Started again, the run begins at step 0'
    )


def refuse(
  folder: Path,
  step: int,
  steps: Iterable[int],
  items: Iterable[str] | None = None,
) -> None:
  """ValueError if `step` is damaged, which names another of `steps` to take.

  items: the parts of a checkpoint to look at; None is all.
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
    return checksums.damage(path, items)
  _say(
    f'checkpoint {path.name} in {path.parent.parent} is of a version that '
    'wrote no checksums: it is taken as it is'
  )
  return ''


def _unreadable_metrics(path):
  # with these Orbax would open no checkpoint at all
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
  # `path`, or path-2, path-3, ... if there is one already
  tries = [path, *(path.with_name(f'{path.name}-{i}') for i in range(2, 1000))]
  return next(path for path in tries if not path.exists())

"""Metrics in a file of JSON lines, and in the loggers of a training."""

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.drafts import draft
from diffusion_jax.runtime.files import is_regular, parse_json
from diffusion_jax.training.loggers import Loggers


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl`, and to the loggers that log_to names.

  `metrics.jsonl` has one JSON object per line, with its `step`. When a run
  resumes at start_step, later lines are dropped, and counted on stdout, since
  they will be written again. At step 0 the file is renamed instead, to
  `metrics.1.jsonl` or the next number. writes=False writes nothing, for all
  processes but one. Methods are named as in clu.metric_writers.
  """

  def __init__(
    self,
    workdir: str | Path,
    start_step: int = 0,
    writes: bool = True,
    log_to: Iterable[str] = ('tensorboard',),
  ):
    workdir = Path(workdir)
    path = workdir / 'metrics.jsonl' if writes else Path(os.devnull)
    if writes:
      _begin(path, start_step)
    self._lines = path.open('a')
    self._loggers = Loggers(log_to if writes else (), workdir, start_step)

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """Writes one line of numbers, without NaN (means without values)."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if not np.isnan(x)}
    self._lines.write(json.dumps({'step': step, **numbers}) + '\n')
    self._lines.flush()
    self._loggers.write_scalars(step, numbers)

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes images, uint8 [H, W, C], to the loggers."""
    self._loggers.write_images(step, images)

  def write_config(self, step: int, config: Json, hparams: Json) -> None:
    """Writes the config, and the fields that a run depends on, to the loggers.

    hparams: {'section.field': a bool, a number or a string}.
    """
    self._loggers.write_config(step, config, hparams)

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    self._loggers.close()


def _begin(path, last):
  # Writes the lines up to step `last` into a new file: the old one may be a
  # link out of the run, or a hard link. At step 0 it is renamed instead.
  if not last and path.is_file() and path.stat().st_size:
    _rename_old(path)
  old = open(path if is_regular(path) else os.devnull, 'rb')
  dropped = []
  with old, draft(path) as new:
    for line in iter(lambda: old.readline(2**20), b''):
      step = _step(line)
      if step is not None and step <= last:
        new.write(line)
      else:
        dropped.append(step)
  if dropped:
    damaged = dropped.count(None)
    print(
      f'{path}: dropped {len(dropped) - damaged} lines after step {last} and '
      f'{damaged} damaged'
    )


def _step(line):
  # Returns the step of a line, or None if a killed run or a disk damaged it.
  try:
    step = parse_json(line)['step'] if line.endswith(b'\n') else None
    return step if isinstance(step, int) else None
  except (ValueError, TypeError, KeyError):
    return None


def _rename_old(path):
  names = (path.with_name(f'metrics.{i}.jsonl') for i in itertools.count(1))
  target = next(name for name in names if not name.exists())
  path.rename(target)
  print(f'{path} of an earlier start of this run is kept as {target.name}')

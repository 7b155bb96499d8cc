"""Metrics in a file of JSON lines and in TensorBoard."""

import functools
import importlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from diffusion_jax.drafts import draft
from diffusion_jax.runtime.files import is_regular, parse_json


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl` and TensorBoard's `events.out.*`.

  `metrics.jsonl` has one JSON object per line, with its `step`. When a run
  resumes at start_step, later lines are dropped, and counted on stdout, since
  they will be written again. At step 0 the file is renamed instead, to
  `metrics.1.jsonl` or the next number. writes=False writes nothing, for all
  processes but one. Methods are named as in clu.metric_writers.
  """

  def __init__(
    self, workdir: str | Path, start_step: int = 0, writes: bool = True
  ):
    self._workdir = Path(workdir)
    self._start_step = start_step
    self._writes = writes
    path = self._workdir / 'metrics.jsonl' if writes else Path(os.devnull)
    if writes:
      _begin(path, start_step)
    self._lines = path.open('a')

  @functools.cached_property
  def _events(self):
    # Not SummaryWriter: its thread dies on a full disk, and the run would wait
    # for it forever.
    EventsWriter = _tensorboard('event_file_writer').EventsWriter
    writer = EventsWriter(str(self._workdir / 'events'))
    # TensorBoard drops records of this step and later ones, which will be
    # written again. Step 0 has the config.
    first = self._start_step + 1 if self._start_step else 0
    log = _tensorboard('proto.event_pb2')
    start = log.SessionLog(status=log.SessionLog.START)
    writer.write_event(_event(first, session_log=start))
    return writer

  def _add(self, step, summaries):
    if self._writes:
      for summary in summaries:
        self._events.write_event(_event(step, summary=summary))
      self._events.flush()

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """Writes one line of numbers, without NaN (means without values)."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if not np.isnan(x)}
    self._lines.write(json.dumps({'step': step, **numbers}) + '\n')
    self._lines.flush()
    summary = _tensorboard('summary')
    self._add(step, [summary.scalar(*item) for item in numbers.items()])

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes images, uint8 [H, W, C], to TensorBoard."""
    image = functools.partial(_tensorboard('summary').image, dataformats='HWC')
    self._add(step, [image(*item) for item in images.items()])

  def write_texts(self, step: int, texts: dict[str, str]) -> None:
    """Writes Markdown to TensorBoard."""
    summary = _tensorboard('summary')
    self._add(step, [summary.text(*item) for item in texts.items()])

  def write_hparams(self, hparams: dict[str, bool | float | str]) -> None:
    """Writes the fields that a run depends on to TensorBoard's HPARAMS tab.

    The metrics of the tab are the scalars of the run.
    """
    # Only the start of the session: TensorBoard reads the record of the whole
    # experiment from only one run, and would not show which fields differ.
    _, start, _ = _tensorboard('summary').hparams(hparams, {})
    self._add(0, [start])

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    if self._writes:
      self._events.close()


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


@functools.cache
def _tensorboard(name) -> ModuleType:
  # Imports a module of tensorboardX without torch, which it imports if it can,
  # only for types of arguments: this would take seconds at every start.
  hidden = 'torch' not in sys.modules
  if hidden:
    sys.modules['torch'] = None  # pyright: ignore[reportArgumentType]
  try:
    return importlib.import_module(f'tensorboardX.{name}')
  finally:
    if hidden:
      del sys.modules['torch']


def _event(step, **what):
  log = _tensorboard('proto.event_pb2')
  return log.Event(wall_time=time.time(), step=step, **what)

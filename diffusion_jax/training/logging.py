"""Writes metrics to a file of JSON lines and to TensorBoard."""

import functools
import importlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl` and TensorBoard's `events.out.*`.

  One JSON object per line, with its `step`. Given the step at which a run
  resumes, later lines of `metrics.jsonl` are dropped, and counted on stdout:
  they will be written again. At step 0 the file is renamed instead, to
  `metrics.1.jsonl` or the next number. With writes=False nothing is written:
  of several processes one does. Method names are those of clu.metric_writers.
  """

  def __init__(
    self, workdir: str | Path, start_step: int = 0, writes: bool = True
  ):
    self._workdir = Path(workdir)
    self._start_step = start_step
    self._writes = writes
    self._lines = self._open_lines()

  def _open_lines(self):
    if not self._writes:
      return open(os.devnull, 'w')
    path = self._workdir / 'metrics.jsonl'
    if path.exists() and path.stat().st_size:
      if self._start_step:
        self._drop_later_lines(path)
      else:
        _rename_old(path)
    return path.open('a')

  def _drop_later_lines(self, path):
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [_step(line) for line in lines]
    kept = [i is not None and i <= self._start_step for i in steps]
    if all(kept):
      return
    draft = path.with_suffix('.tmp')  # The file is never incomplete.
    draft.write_bytes(b''.join(itertools.compress(lines, kept)))
    draft.replace(path)
    damaged = steps.count(None)
    later = len(lines) - sum(kept) - damaged
    what = {
      f'{later} of steps after {self._start_step}, which are done again': later,
      f'{damaged} damaged': damaged,
    }
    shown = ', '.join(text for text, count in what.items() if count)
    print(f'{path}: lines dropped: {shown}')

  @functools.cached_property
  def _events(self):
    # Not SummaryWriter: on a full disk the thread of tensorboardX dies, and the
    # run then waits for it for ever.
    EventsWriter = _tensorboard('event_file_writer').EventsWriter
    writer = EventsWriter(str(self._workdir / 'events'))
    # TensorBoard drops what is there of this step and later ones: it will be
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
    """Writes one line of numbers, without NaN (an empty mean)."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if not np.isnan(x)}
    self._lines.write(json.dumps({'step': step, **numbers}) + '\n')
    self._lines.flush()
    summary = _tensorboard('summary')
    self._add(step, [summary.scalar(*item) for item in numbers.items()])

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes images, uint8 [H, W, C], to TensorBoard."""
    summary = _tensorboard('summary')
    pictures = [
      summary.image(name, image, dataformats='HWC')
      for name, image in images.items()
    ]
    self._add(step, pictures)

  def write_texts(self, step: int, texts: dict[str, str]) -> None:
    """Writes Markdown to TensorBoard."""
    summary = _tensorboard('summary')
    self._add(step, [summary.text(*item) for item in texts.items()])

  def write_hparams(self, hparams: dict[str, bool | float | str]) -> None:
    """Writes the fields that a run depends on to TensorBoard's HPARAMS tab.

    The metrics of the tab are the scalars of the run.
    """
    summary = _tensorboard('summary')
    # Only the start of the session: TensorBoard reads the record of the whole
    # experiment of one run alone, and would not show which fields differ.
    _, start, _ = summary.hparams(hparams, {})
    self._add(0, [start])

  def flush(self) -> None:
    """Writes everything so far to disk."""
    self._lines.flush()

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    if self._writes:
      self._events.close()


def _step(line):
  # Returns None for a line that a killed run or a damaged disk left incomplete.
  try:
    step = json.loads(line)['step'] if line.endswith(b'\n') else None
    return step if isinstance(step, int) else None
  except (ValueError, TypeError, KeyError):
    return None


def _rename_old(path):
  names = (path.with_name(f'metrics.{i}.jsonl') for i in itertools.count(1))
  target = next(name for name in names if not name.exists())
  path.rename(target)
  print(
    f'{path} is of an earlier start of this run: it is kept as {target.name}'
  )


@functools.cache
def _tensorboard(name) -> Any:
  # Imports a module of tensorboardX without torch, which it would import where
  # it finds it, and use for its own types of arguments alone: seconds of every
  # start.
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

"""Metrics to a file of JSON lines and to TensorBoard."""

import functools
import itertools
import json
import os
import time
from pathlib import Path

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
        _put_aside(path)
    return path.open('a')

  def _drop_later_lines(self, path):
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [_step(line) for line in lines]
    kept = [i is not None and i <= self._start_step for i in steps]
    if all(kept):
      return
    draft = path.with_suffix('.tmp')  # it is never half a file
    draft.write_bytes(b''.join(itertools.compress(lines, kept)))
    draft.replace(path)
    damaged = steps.count(None)
    later = len(lines) - sum(kept) - damaged
    print(
      f'{path}: dropped {later} lines of steps after {self._start_step}, which '
      f'are done again, and {damaged} damaged ones'
    )

  @functools.cached_property
  def _events(self):
    # not tensorboardX's SummaryWriter: on a full disk its thread dies, and the
    # run then waits for it for ever
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    writer = EventsWriter(str(self._workdir / 'events'))
    # TensorBoard drops what is there of this step and later ones: it will be
    # written again. Step 0 has the config.
    first = self._start_step + 1 if self._start_step else 0
    start = SessionLog(status=SessionLog.START)
    writer.write_event(_event(first, session_log=start))
    return writer

  def _add(self, step, summaries):
    if self._writes:
      for summary in summaries:
        self._events.write_event(_event(step, summary=summary))
      self._events.flush()

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """One line of numbers; NaN (nothing to average) is left out."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if not np.isnan(x)}
    self._lines.write(json.dumps({'step': step, **numbers}) + '\n')
    self._lines.flush()
    from tensorboardX import summary

    self._add(step, [summary.scalar(*item) for item in numbers.items()])

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Pictures, uint8 [H, W, C], to TensorBoard."""
    from tensorboardX import summary

    pictures = [
      summary.image(name, image, dataformats='HWC')
      for name, image in images.items()
    ]
    self._add(step, pictures)

  def write_texts(self, step: int, texts: dict[str, str]) -> None:
    """Markdown to TensorBoard."""
    from tensorboardX import summary

    self._add(step, [summary.text(*item) for item in texts.items()])

  def write_hparams(self, hparams: dict[str, bool | float | str]) -> None:
    """What the run depends on, flat, to TensorBoard's HPARAMS tab.

    Its metrics are the run's scalars.
    """
    from tensorboardX import summary

    # Only the start of the session: of a record of the whole experiment
    # TensorBoard would read that of one run, and not see which fields differ.
    _, start, _ = summary.hparams(hparams, {})
    self._add(0, [start])

  def flush(self) -> None:
    """Everything written so far is on disk after this."""
    self._lines.flush()

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    if self._writes:
      self._events.close()


def _step(line):
  # None where a killed run left half a line, or a damaged disk any
  try:
    step = json.loads(line)['step'] if line.endswith(b'\n') else None
    return step if isinstance(step, int) else None
  except (ValueError, TypeError, KeyError):
    return None


def _put_aside(path):
  names = (path.with_name(f'metrics.{i}.jsonl') for i in itertools.count(1))
  aside = next(name for name in names if not name.exists())
  path.rename(aside)
  print(
    f'{path} is of an earlier start of this run: it is kept as {aside.name}'
  )


def _event(step, **what):
  from tensorboardX.proto.event_pb2 import Event

  return Event(wall_time=time.time(), step=step, **what)

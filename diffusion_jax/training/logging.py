"""Metrics to a file of JSON lines and to TensorBoard."""

import functools
import json
import os
import time
from pathlib import Path

import numpy as np


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl` and TensorBoard's `events.out.*`.

  One JSON object per line, with its `step`. Given the step at which a run
  resumes, later lines of `metrics.jsonl` are dropped: they will be written
  again. With writes=False nothing is written: of several processes one does.
  Method names are those of clu.metric_writers.
  """

  def __init__(
    self, workdir: str | Path, start_step: int = 0, writes: bool = True
  ):
    self._workdir = Path(workdir)
    self._start_step = start_step
    self._writes = writes

  @functools.cached_property
  def _lines(self):
    if not self._writes:
      return open(os.devnull, 'w')
    path = self._workdir / 'metrics.jsonl'
    if path.exists():
      draft = path.with_suffix('.tmp')  # it is never half a file
      draft.write_bytes(b''.join(self._kept(path)))
      draft.replace(path)
    return path.open('a')

  def _kept(self, path):
    # a killed run may leave half a line, a damaged disk any
    for line in path.read_bytes().splitlines(keepends=True):
      try:
        if (
          line.endswith(b'\n') and json.loads(line)['step'] <= self._start_step
        ):
          yield line
      except (ValueError, TypeError, KeyError):
        pass

  @functools.cached_property
  def _events(self):
    # not tensorboardX's SummaryWriter: on a full disk its thread dies, and the
    # run then waits for it for ever
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    writer = EventsWriter(str(self._workdir / 'events'))
    if self._start_step:  # TensorBoard drops what will be written again
      start = SessionLog(status=SessionLog.START)
      writer.write_event(_event(self._start_step + 1, session_log=start))
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

  def write_hparams(self, hparams: dict) -> None:
    """The configuration, as text, to TensorBoard."""
    from tensorboardX import summary

    text = json.dumps(hparams, indent=2)
    self._add(0, [summary.text('config', f'```\n{text}\n```')])

  def flush(self) -> None:
    """Everything written so far is on disk after this."""
    self._lines.flush()

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    if self._writes:
      self._events.close()


def _event(step, **what):
  from tensorboardX.proto.event_pb2 import Event

  return Event(wall_time=time.time(), step=step, **what)

"""Metrics to a file of JSON lines and to TensorBoard."""

import functools
import json
from pathlib import Path

import numpy as np


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl` and TensorBoard's `events.out.*`.

  One JSON object per line, with its `step`. Given the step at which a run
  resumes, later lines of `metrics.jsonl` are dropped: they will be written
  again. Method names are those of clu.metric_writers.
  """

  def __init__(self, workdir: str | Path, start_step: int = 0):
    self._workdir = Path(workdir)
    self._start_step = start_step

  @functools.cached_property
  def _lines(self):
    path = self._workdir / 'metrics.jsonl'
    kept = []
    if path.exists():
      for line in path.read_text().splitlines(keepends=True):
        # a killed run may leave half a line
        if line.endswith('\n') and json.loads(line)['step'] <= self._start_step:
          kept.append(line)
    path.write_text(''.join(kept))
    return path.open('a')

  @functools.cached_property
  def _tensorboard(self):
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(self._workdir), purge_step=self._start_step + 1)

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """One line of numbers; NaN (nothing to average) is left out."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if not np.isnan(x)}
    self._lines.write(json.dumps({'step': step, **numbers}) + '\n')
    self._lines.flush()
    for name, value in numbers.items():
      self._tensorboard.add_scalar(name, value, step)

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Pictures, uint8 [H, W, C], to TensorBoard."""
    for name, image in images.items():
      self._tensorboard.add_image(name, image, step, dataformats='HWC')

  def write_hparams(self, hparams: dict) -> None:
    """The configuration, as text, to TensorBoard."""
    text = json.dumps(hparams, indent=2)
    self._tensorboard.add_text('config', f'```\n{text}\n```', 0)

  def flush(self) -> None:
    """Everything written so far is on disk after this."""
    self._lines.flush()
    self._tensorboard.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    self._lines.close()
    self._tensorboard.close()

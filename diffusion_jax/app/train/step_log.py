"""The open files of a training: metrics of its steps, and checkpoints."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import SupportsFloat

import jax
import numpy as np
from orbax.checkpoint import CheckpointManager
from tqdm import tqdm

from diffusion_jax.aliases import Json
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.model import Frames
from diffusion_jax.app.run.bands import Band
from diffusion_jax.errors import UserError
from diffusion_jax.planning import rates
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.loggers import MetricWriter
from diffusion_jax.training.objectives import Mean
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import checkpoints

Metrics = dict[str, Mean]
Sums = dict[str, tuple[float, float]]  # totals and counts
WIDTH = 100  # the most characters of a line without training.verbose
_EPSILON = 'a larger objective.diffusion, or objective.coupling.epsilon'


class StepLog:
  """Collects metrics of the steps since the last line, and their time.

  manager, writer and bar: checkpoints, `MetricWriter` and progress bar of the
  run; start: the step it begins after; rates: the learning rate of each step;
  stored: the config that is stored with checkpoints; before: `as_json` of the
  log at the start, which goes on with it; band: where results are expected. results: the
  metrics that hooks have measured at this step; notes: what is printed after a metric; film:
  of the last preview; flop: of a step on one device, 0 before the first step.
  """

  def __init__(
    self,
    config: Node,
    workdir: RunFolder,
    manager: CheckpointManager,
    writer: MetricWriter,
    bar: tqdm,
    start: int,
    rates: Sequence[SupportsFloat] | np.ndarray,
    stored: dict,
    before: Json | None = None,
    band: Band | None = None,
  ):
    self._band = band
    self.manager, self.writer = manager, writer
    self.results: dict[str, float] = {}
    self.notes: dict[str, str] = {}
    self.film: Frames | None = None
    self.flop = 0.0
    self._config, self._workdir, self._bar = config, workdir, bar
    self._rates, self._stored = rates, stored
    self._unread: list[tuple[range, Metrics]] = []
    before = before or {}
    sums = before.get('sums', {})  # sums over the steps since the last line
    self._sums: Sums = {n: (float(total), float(count)) for n, (total, count) in sums.items()}
    self._left_out, self._in_a_row = (before.get(n, 0) for n in ('left_out', 'in_a_row'))
    self._warned = False  # whether the warning about the columns of a plan was printed
    self._first = start + 1
    self._first_read: float | None = None  # when the first call was read
    self._since, self._clock = start, time.perf_counter()

  def as_json(self) -> Json:
    """Returns what the next line needs of the steps that were read."""
    # Sums as texts: JSON has no NaN, which repaired gradients may leave.
    sums = {name: [repr(x) for x in pair] for name, pair in self._sums.items()}
    return {'sums': sums, 'left_out': self._left_out, 'in_a_row': self._in_a_row}

  def add(self, steps: range, metrics: Metrics) -> None:
    """Adds the metrics of a call that has begun; `read` waits for them.

    steps: the range of its steps; leaves of metrics: [], or one for each step.
    """
    self._unread.append((steps, metrics))
    self._bar.update(len(steps))
    if steps[0] == self._first:  # compilation is not counted as training
      self.restart_clock(steps[-1])

  def read(self, left: int = 0) -> None:
    """Waits for all calls but the last `left`; UserError at a bad step."""
    while len(self._unread) > left:
      steps, metrics = self._unread.pop(0)
      metrics = jax.tree.map(np.atleast_1d, jax.device_get(metrics))
      for i, step in enumerate(steps):
        of_step = jax.tree.map(lambda x, i=i: x[i], metrics)
        scalars = average([of_step])
        if self._counts(step, scalars):
          self._sums = added(self._sums, of_step)
        else:
          self._left_out += 1
        self._bar.set_description(f'loss {scalars["loss"]:.4f}', refresh=False)
      self._warn_of_days(steps)

  def write_line(self, step: int) -> None:
    """Writes the averages since the last line, the learning rate and speed.

    The line that is printed has the loss, the speed and the time left; none with a progress bar.
    """
    rate = {'learning_rate': float(self._rates[step - 1])}
    scalars = means(self._sums) | rate
    training, speed = self._config.training, ''
    if training.skip_nonfinite:
      scalars['skipped_steps'] = self._left_out
    if step > self._since:
      rate = (step - self._since) / (time.perf_counter() - self._clock)
      scalars['images_per_second'] = rate * training.batch_size
      left = tqdm.format_interval((training.num_steps - step) / rate)
      achieved = rates.achieved(self.flop * rate, jax.devices()[0].device_kind)
      scalars |= achieved
      flops = f'{rates.as_text(achieved)}, ' * training.verbose
      speed = f'({rate:.3g} steps/s, {flops}{left} left)'
    self.writer.write_scalars(step, scalars)
    self._warn_of_columns(step, scalars.get('column_error', 0.0))
    names = ('loss', 'skipped_steps')[: 2 if self._left_out else 1]
    if self._bar.disable:
      self._print(step, {n: scalars[n] for n in names if n in scalars}, speed)
    self._sums, self._left_out = {}, 0

  def write(self, step: int, scalars: dict[str, float]) -> None:
    """Writes numbers, and prints them, without training.verbose but for quarters of t."""
    self.writer.write_scalars(step, scalars)
    of_band = {n: self._band.note(n, step, x) for n, x in scalars.items()} if self._band else {}
    self._print(step, scalars, of_band=of_band)

  def _print(self, step, scalars, *notes, of_band: Mapping[str, str] = MappingProxyType({})):
    verbose = self._config.training.verbose
    texts = {n: f'{x:,}' if isinstance(x, int) else f'{x:.4g}' for n, x in scalars.items()}
    about = {n: '; '.join(filter(None, (self.notes.get(n), of_band.get(n)))) for n in texts}
    shown = [
      f'{n} {text}{about[n] and f" ({about[n]})"}'
      for n, text in texts.items()
      if text != 'nan' and (verbose or '_quarter_' not in n)
    ]
    parts = [*shown, *filter(None, notes)]
    for line in in_lines(f'step {step}:', parts, 0 if verbose else WIDTH):
      self._bar.write(line)

  def save(self, state: TrainState, metrics: dict | None = None) -> None:
    """Starts writing a checkpoint of the state."""
    checkpoints.save(self.manager, state, self._stored, metrics, self.as_json())

  @contextlib.contextmanager
  def open(self) -> Iterator[None]:
    """Finishes all files when the training ends, also after an error."""
    with contextlib.ExitStack() as ends:
      ends.callback(checkpoints.finish, self.manager)
      ends.callback(self.writer.close)
      ends.callback(self._bar.close)
      yield

  def restart_clock(self, step: int) -> None:
    """Excludes the time until now from the speed of training."""
    self._since, self._clock = step, time.perf_counter()

  def _warn_of_days(self, steps):
    # The second call of a start says how long its steps take: the first one
    # was compiled, and its result is read when the second one has begun.
    c, now = self._config.training, time.monotonic()
    if steps[0] == self._first:
      self._first_read = now
    elif self._first_read is not None:
      seconds = (now - self._first_read) / len(steps)
      days = seconds * (c.num_steps - steps[-1]) / 86_400
      if days > 1.0:
        self._bar.write(
          f'this training will take {days:.3g} days, a step {seconds:.3g} s: '
          'take a GPU, or a smaller network, images, training.batch_size or '
          'training.num_steps (configs/pictures.py is made for a CPU)'
        )
      self._first_read = None

  def _warn_of_columns(self, step, error):
    if error > 0.05 and not self._warned:
      self._warned = True
      self._bar.write(
        f'step {step}: the plan of objective.coupling is off by {error:.0%} in a column '
        f'(column_error): raise objective.coupling.num_iterations, or {_EPSILON}'
      )

  def _counts(self, step, scalars):
    # A step whose loss or gradient is not finite is skipped, up to
    # training.skip_nonfinite times in a row; the next one is a UserError. With
    # optimizer.repair_gradients the optimizer has replaced such a gradient. Of a
    # plan that is NaN no step can be right.
    config = self._config
    names = 'column_error', 'loss', 'grad_norm'
    wrong = [n for n in names if not np.isfinite(scalars.get(n, 0.0))]
    of_plan = wrong[:1] == ['column_error']
    if not wrong or (config.optimizer.get('repair_gradients') and not of_plan):
      self._in_a_row = 0
      return True
    self._in_a_row += 1
    if self._in_a_row <= config.training.skip_nonfinite:
      return False
    last = self.manager.latest_step()
    kept = 'no checkpoint' if last is None else f'checkpoint {last}'
    times = f', {self._in_a_row} steps in a row' if self._in_a_row > 1 else ''
    advice = 'a smaller optimizer.learning_rate or optimizer.clip_norm'
    if of_plan:
      times += ', since float32 does not resolve cost / epsilon of the plan of objective.coupling'
      advice = _EPSILON
    raise UserError(
      f'{wrong[0]} is {scalars[wrong[0]]} at step {step}{times}: stopped, '
      f'{self._workdir} keeps {kept}. Continue with '
      f'--config.training.resume=force and {advice}'
    )


def in_lines(start: str, parts: Sequence[str], width: int = 0) -> Iterator[str]:
  """Yields lines that begin with `start` and have all parts, each at most `width` characters.

  A part that is longer has a line of its own; width 0: one line.
  """
  line = start
  for part in parts:
    if width and line != start and len(f'{line} {part}') > width:
      yield line
      line = start
    line = f'{line} {part}'
  if line != start:
    yield line


def average(history: Sequence[Metrics]) -> dict[str, float]:
  """Averages a list of {name: Mean} to {name: float}; NaN for no count."""
  return means(functools.reduce(added, jax.device_get(history), {}))


def added(sums: Sums, metrics: Metrics) -> Sums:
  """Returns the sums of metrics with more steps added, in float64, one after the other.

  The order makes a sum that goes on after an interruption the same.
  """
  sums = dict(sums)
  for name, mean in metrics.items():
    total, count = sums.get(name, (0.0, 0.0))
    sums[name] = total + float(mean.total), count + float(mean.count)
  return sums


def means(sums: Sums) -> dict[str, float]:
  """Returns {name: total / count}; NaN for no count."""
  return {n: total / count if count else float('nan') for n, (total, count) in sums.items()}

"""The numbers and previews of a training: a file of JSON lines, and loggers."""

import functools
import importlib
import importlib.util
import itertools
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Protocol

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.atomic_files import draft
from diffusion_jax.declared import declared_by, declares
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import (
  lines_of,
  make_folder,
  one_line,
  read_json,
  summed_line,
  write_json,
)

IDS = 'loggers.json'  # the file of the run folder with W&B's name of the run


class Logger(Protocol):
  """Shows a training. Numbers may come in several calls for one step."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes numbers, which are finite."""
    ...

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes images, uint8 [H, W, C]."""
    ...

  def write_config(self, step: int, config: Json, hparams: Json) -> None:
    """Writes the config at each start of a training.

    hparams: {'section.field': value} of what the training depends on.
    """
    ...

  def close(self) -> None:
    """Closes files and connections."""
    ...


@declares(writes_here_only=True)
class TensorBoard:
  """Writes `events.out.*` into the run folder."""

  def __init__(self, workdir: Path, start_step: int):
    # SummaryWriter's thread would die on a full disk, and the run would wait for it
    # forever. The default name has the time in seconds, and two starts in a second
    # would share a file.
    EventsWriter = _tensorboard('event_file_writer').EventsWriter
    self._events = EventsWriter(str(workdir / 'events'), f'.{time.time_ns()}')
    # TensorBoard drops records of this step and later ones, which will be
    # written again. Step 0 has the config.
    first = start_step + 1 if start_step else 0
    log = _tensorboard('proto.event_pb2')
    start = log.SessionLog(status=log.SessionLog.START)
    self._events.write_event(_event(first, session_log=start))

  def _add(self, step, summaries):
    for summary in summaries:
      self._events.write_event(_event(step, summary=summary))
    self._events.flush()

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `Logger`."""
    scalar = _tensorboard('summary').scalar
    self._add(step, [scalar(*item) for item in scalars.items()])

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """See `Logger`."""
    image = functools.partial(_tensorboard('summary').image, dataformats='HWC')
    self._add(step, [image(*item) for item in images.items()])

  def write_config(self, step: int, config: Json, hparams: Json) -> None:
    """Writes the config as text, and the HPARAMS tab.

    The metrics of the tab are the scalars of the run.
    """
    summary = _tensorboard('summary')
    text = f'```\n{json.dumps(config, indent=2)}\n```'
    self._add(step, [summary.text('config', text)])
    # The start of the session is enough: TensorBoard reads the record of the whole
    # experiment from only one run, and would not show which fields differ.
    _, start, _ = summary.hparams(hparams, {})
    self._add(0, [start])

  def close(self) -> None:
    """See `Logger`."""
    self._events.close()


class Wandb:
  """Writes a run of Weights & Biases, whose files are in wandb/ of the run.

  Its environment variables decide the rest, such as WANDB_MODE=offline and
  WANDB_PROJECT, by default diffusion_jax.
  """

  def __init__(self, workdir: Path, start_step: int):
    wandb = importlib.import_module('wandb')
    name = _stored_id(workdir, start_step) or secrets.token_hex(4)
    self._image = wandb.Image
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'diffusion_jax'),
      id=name,
      name=workdir.resolve().name,
      dir=make_folder(workdir, 'wandb').parent,
      resume='allow',
      settings=wandb.Settings(console='off', quiet=True),
    )
    write_json(workdir / IDS, {'wandb': name})

  def _log(self, step, values):
    if step >= self._run.step:  # W&B refuses steps that it has.
      self._run.log(values, step=step)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `Logger`."""
    self._log(step, dict(scalars))

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """See `Logger`."""
    self._log(step, {name: self._image(x) for name, x in images.items()})

  def write_config(self, step: int, config: Json, hparams: Json) -> None:
    """See `Logger`."""
    self._run.config.update(config, allow_val_change=True)

  def close(self) -> None:
    """See `Logger`."""
    self._run.finish()


LOGGERS: dict[str, Callable[..., Logger]] = {'tensorboard': TensorBoard, 'wandb': Wandb}


def senders(names: Iterable[str]) -> list[str]:
  """Returns the loggers that may send something away, as a user's own may."""
  return [name for name in names if not declared_by(LOGGERS.get(name, Logger)).writes_here_only]


_PACKAGES = {'wandb': 'wandb'}  # {logger: the package that an extra installs}


def missing(names: Iterable[str]) -> list[str]:
  """Returns the loggers whose package is not installed."""
  specs = {name: importlib.util.find_spec(_PACKAGES[name]) for name in names if name in _PACKAGES}
  # A spec without an origin is of a folder wandb/ in the working folder.
  return [n for n, spec in specs.items() if spec is None or not spec.origin]


def _stored_id(workdir, start_step):
  # Returns what W&B calls a run that continues; '' for one that begins, also again.
  try:
    stored_id = read_json(workdir / IDS)['wandb'] if start_step else ''
  except (FileNotFoundError, LookupError, TypeError, UserError):
    return ''
  return stored_id if isinstance(stored_id, str) and stored_id.isalnum() else ''


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


class MetricWriter:
  """Writes `<workdir>/metrics.jsonl`, and to loggers, {name: constructor}.

  `metrics.jsonl` has one JSON object per line, with its `step` and a sum. When a
  run resumes at start_step, later lines are dropped, and counted on stdout, since
  they will be written again. At step 0 the file is renamed instead, to
  `metrics.1.jsonl` or the next number. A logger that raises is left out from
  then on, and one line says so: curves are no reason to end a training.
  writes=False writes nothing, for all processes but one. Methods are named as
  in clu.metric_writers.
  """

  def __init__(
    self,
    workdir: Path,
    start_step: int = 0,
    writes: bool = True,
    loggers: Mapping[str, Callable[..., Logger]] = MappingProxyType({'tensorboard': TensorBoard}),
  ):
    path = workdir / 'metrics.jsonl' if writes else Path(os.devnull)
    if writes:
      _begin(path, start_step)
    self._lines = path.open('a')
    self._open: dict[str, Logger] = {}
    for name, make in loggers.items() if writes else ():
      self._try(name, lambda make: make(workdir=workdir, start_step=start_step), make)

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """Writes one line of the numbers that are finite: means without values are NaN."""
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers = {name: x for name, x in numbers.items() if np.isfinite(x)}
    self._lines.write(summed_line({'step': step, **numbers}))
    self._lines.flush()
    self._each(lambda logger: logger.write_scalars(step, numbers))

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes images, uint8 [H, W, C], to the loggers."""
    self._each(lambda logger: logger.write_images(step, images))

  def write_config(self, step: int, config: Json, hparams: Json) -> None:
    """Writes the config, and the fields that a run depends on, to the loggers.

    hparams: {'section.field': a bool, a number or a string}.
    """
    self._each(lambda logger: logger.write_config(step, config, hparams))

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    self._each(lambda logger: logger.close())

  def _each(self, act):
    for name, logger in [*self._open.items()]:
      self._try(name, act, logger)

  def _try(self, name, act, thing):
    try:
      made = act(thing)
      self._open.setdefault(name, made)
    except Exception as error:  # Each library has its own.
      from tqdm import tqdm  # writes around the bar that the program may show

      self._open.pop(name, None)
      reason = next(iter(str(error).strip().splitlines()), '')
      tqdm.write(
        f'{name} failed, and the training goes on without it: '
        f'{type(error).__name__}: {one_line(reason)}'
      )


def _begin(path, last):
  # Writes the lines up to step `last` into a new file: the old one may be a
  # link out of the run, or a hard link. At step 0 it is renamed instead.
  if not last and path.is_file() and path.stat().st_size:
    names = (path.with_name(f'metrics.{i}.jsonl') for i in itertools.count(1))
    target = next(name for name in names if not name.exists())
    path.rename(target)
    print(f'{path} of an earlier start of this run is kept as {target.name}')
  dropped = []
  with draft(path) as new:
    for line, entry in lines_of(path):
      # A killed run may leave the first part of a line.
      step = entry.get('step') if entry and line.endswith(b'\n') else None
      step = step if isinstance(step, int) else None
      if step is not None and step <= last:
        new.write(line)
      else:
        dropped.append(step)
  if dropped:
    damaged = dropped.count(None)
    print(f'{path}: dropped {len(dropped) - damaged} lines after step {last} and {damaged} damaged')

"""Bands: where several trainings of a config say that the losses of a further one will be."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import roles
from diffusion_jax.data import reads
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.estimates import prediction_interval
from diffusion_jax.paths import expanded
from diffusion_jax.report import record
from diffusion_jax.report.record import HELD_OUT
from diffusion_jax.runtime import compiling, sessions
from diffusion_jax.runtime.files import read_summed
from diffusion_jax.runtime.run_folder import RunFolder

FILE = 'band.json'
# Curves that say how fast a training is, or what it was told.
_NOT_MEASURED = 'beta', 'images_per_second', 'learning_rate', 'mfu', 'skipped_steps', 'tflops'
_OF_START = 'python', 'platform', 'devices', 'versions'  # of sessions.jsonl
_SHOWN = 3  # fields in a line

# {step: (low, high)}, where the values of a curve are expected.
Expected = Mapping[int, tuple[float, float]]


class Band(NamedTuple):
  """The curves of trainings that differ in nothing but their seeds.

  fields: see `roles.curve_fields`; curves: {name: (steps, values [steps, trainings])}; code: sums
  of the user's own modules by name.
  """

  path: str
  fields: Json
  curves: Mapping[str, tuple[Sequence[int], np.ndarray]]
  trainings: int
  code: Mapping[str, str]

  def expected(self, name: str) -> Expected:
    """Returns the 95 % prediction intervals of a curve for one more training, {} if unknown."""
    steps, values = self.curves.get(name, ((), ()))
    return {step: prediction_interval(x) for step, x in zip(steps, values, strict=True)}

  def note(self, name: str, step: int, value: float) -> str:
    """Returns where a value is expected, or how far it is outside; '' if that is unknown."""
    if step not in (expected := self.expected(name)):
      return ''
    low, high = expected[step]
    digits = max(0, 1 - math.floor(math.log10(high - low))) if high > low else 4
    interval = f'{low:.{digits}f} to {high:.{digits}f}'
    if value > high:
      return f'{value - high:.2g} above {interval}'
    return f'{low - value:.2g} below {interval}' if value < low else f'expected {interval}'


def content_of(runs: Sequence[RunFolder]) -> Json:
  """Returns the content of a band's file: the curves of finished trainings, and their machine."""
  stored = [folder.stored_fields(run) for run in runs]
  fields = [roles.curve_fields(x) for x in stored]
  for run, one in zip(runs, stored, strict=True):
    check_not_continued(run, one['training.num_steps'])
  for run, other in zip(runs, fields, strict=True):
    if changed := folder.differences(fields[0], other):
      raise UserError(f'{run} and {runs[0]} differ by more than their seeds: {changed}')
  entries = [sessions.read(run) for run in runs]
  code = [_own_modules(x, sessions.last_own(y)) for x, y in zip(stored, entries, strict=True)]
  for run, other in zip(runs, code, strict=True):
    if changed := _changed_code(code[0], other):
      raise UserError(f'{run} and {runs[0]} differ by more than their seeds: {changed}')
  every = [record.read_curves(run.metrics) for run in runs]
  names = [
    name
    for name in every[0]
    if all(name in curves for curves in every)
    and name.removeprefix(HELD_OUT[0]) not in _NOT_MEASURED
  ]
  starts = [[x for x in found if x.get('event') == 'start'][-1] for found in entries]
  made = {name: starts[0][name] for name in _OF_START}
  return {
    'trainings': len(runs),
    'fields': fields[0],
    'code': code[0],
    'curves': {name: _joined([curves[name] for curves in every]) for name in names},
    'processor_seconds': [sessions.processor_seconds(found) for found in entries],
    'made': made | {'processor': compiling.processor()},
  }


def check_not_continued(run: RunFolder, num_steps: object) -> None:
  """Raises UserError for a training that ended before num_steps, and went on or would."""
  if said := _continued(sessions.read(run), num_steps):
    raise UserError(f'{run} {said}, and those of a band do once: train in another folder')


def _continued(entries, num_steps):
  # Returns what is to be said of a training that goes on after an end with other num_steps, or ''.
  ends = [x['step'] for x in entries if x.get('event') == 'end' and x.get('num_steps') != num_steps]
  return f'ended at step {min(ends)}: its learning rate decays again' if ends else ''


def _own_modules(fields, own):
  # Returns the sums of the user's own modules that the fields of a config name.
  names = {x.partition(':')[0] for x in trust.texts_in(fields) if ':' in x}
  return {name: own[name] for name in sorted(names & own.keys())}


def _changed_code(before, now):
  names = [name for name, code in before.items() if now.get(name) != code]
  return f'the code of {", ".join(names)} has changed' if names else ''


def _joined(curves):
  # Returns the steps that all curves have, and their values with five digits.
  every = [dict(zip(*curve, strict=True)) for curve in curves]
  steps = [step for step in every[0] if all(step in values for values in every)]
  return {
    'steps': steps,
    'values': [[float(f'{values[step]:.5g}') for values in every] for step in steps],
  }


def installed() -> dict[str, Path]:
  """Returns {'configs/bands/<name>.json': file} of the package's configs."""
  files = sorted(folder.installed_configs().glob('bands/*.json'))
  return {f'configs/bands/{file.name}': file for file in files}


def read(path: str) -> Band:
  """Reads the file of --mode=band, in the working folder or an `installed` one.

  Raises UserError for a missing or damaged file, and if only a stored config names another one.
  """
  file, ours = Path(expanded(path)), installed()
  if path not in ours:
    trust.check_paths(('training.band', path))
  elif not file.is_file():
    file = ours[path]
  reads.leave_out([str(file)])
  what = f'config.training.band={path}'
  try:
    content = read_summed(file)
    curves = {
      name: (
        curve['steps'],
        np.asarray(curve['values'], np.float64).reshape(len(curve['steps']), -1),
      )
      for name, curve in content['curves'].items()
    }
    trainings, code = int(content['trainings']), dict(content['code'])
    return Band(path, dict(content['fields']), curves, trainings, code)
  except OSError as error:
    raise UserError(f'{what}: there is no such file, which --mode=band writes') from error
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise UserError(f'{what} is not a file of --mode=band: {error}') from error


class Comparison(NamedTuple):
  """What a run is compared with: its band, None if there is none, and lines about it."""

  band: Band | None = None
  lines: tuple[str, ...] = ()

  def expected(self, log_every: object) -> dict[str, Expected]:
    """Returns where each curve of the run is expected; log_every: of its training losses."""
    band = self.band
    if band is None:
      return {}
    same = band.fields.get(roles.LOG_EVERY) == log_every
    names = (name for name in band.curves if same or name.startswith(HELD_OUT))
    return {name: band.expected(name) for name in names}


def compare(
  config: Node, fields: Mapping[str, object], entries: Sequence[Json], own: Mapping[str, str]
) -> Comparison:
  """Returns the comparison of a run with the band of its config.

  fields: {'section.field': value} of its config.json; entries: of its sessions.jsonl; own: as its
  starts have it. Runs with another loss, other data, draws or code of the user's, or that went on
  after their end, are not compared; what else differs, such as the learning rate, is said. Raises
  UserError as `read`.
  """
  if not config.training.band:
    return Comparison()
  band, now = read(config.training.band), roles.curve_fields(fields)
  usual = {name: x for name, x in config.default_fields.items() if name in now}
  before = usual | band.fields  # the band may lack a new field

  def differ(decides):
    old, new = (
      {n: x for n, x in tree.items() if n != roles.LOG_EVERY and _decides(n, now) == decides}
      for tree in (before, now)
    )
    return folder.differences(old, new)

  about = f'band: {band.path}, {band.trainings} trainings'
  if said := _continued(entries, config.training.num_steps):
    said = f'this training {said}'
  if others := _shortly(differ(True)) or said or _changed_code(band.code, own):
    return Comparison(None, (f'{about}, with which nothing is compared: {others}',))
  lines = [f'{about}: expected is where 19 of 20 more of them would be']
  if others := differ(False):
    lines.append(f'this training is another: {_shortly(others)}')
  return Comparison(band, tuple(lines))


def _decides(field, fields):
  return field in roles.OF_CURVE or roles.decides_loss(field, fields)


def _shortly(differences):
  parts = differences.split('; ')
  more = f' and {len(parts) - _SHOWN} more fields' if len(parts) > _SHOWN else ''
  return '; '.join(parts[:_SHOWN]) + more

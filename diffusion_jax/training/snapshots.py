"""Snapshots of the averages by a power of time, for `power_ema`.

`<workdir>/snapshots/<step>.safetensors` holds the averages of all tracked
widths after a step, each parameter as `<name of the average>/<its path>`, and
the number of images until then. The folder has `SHA256SUMS`, and `batches.json`
with the step at which each batch size began. Process 0 writes a file before the
checkpoint of the same step, so that a continued run has all snapshots.
"""

import json
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from diffusion_jax.errors import UserError
from diffusion_jax.interop import files
from diffusion_jax.runtime import files as of_run, processes
from diffusion_jax.training import checksums
from diffusion_jax.training.power_ema import width_of

_RECORD = 'snapshot'  # key in the metadata
_ENDING = '.safetensors'


def begin(workdir: Path, step: int, batch_size: int) -> float:
  """Prepares a training that continues after `step`.

  Deletes snapshots of later steps, which it will write again. Returns images /
  batch_size - step, for `optimizer.ema_power`. Raises UserError if batches.json
  is unreadable.
  """
  sizes = [row for row in _read_sizes(workdir) if row[0] < step]
  if not sizes or sizes[-1][1] != batch_size:
    sizes.append([step if sizes else 0, batch_size])
  if processes.is_first():
    out = of_run.make_folder(workdir, 'snapshots')
    for path in out.glob(f'*{_ENDING}.draft*'):  # of an interrupted write
      path.unlink()
    _delete(workdir, [s for s in steps(workdir) if s > step])
    of_run.write_json(out / 'batches.json', {'batches': sizes})
  return _images_at(step, sizes) / batch_size - step


def write(workdir: Path, step: int, averages: dict) -> None:
  """Writes the snapshot of a step, whole or not at all.

  averages: {name: parameters} of all averages of the run. All processes call
  it, since parameters may be split among them.
  """
  widths = {name: x for name, x in averages.items() if width_of(name)}
  arrays = files.flatten(_gather(widths))
  if not processes.is_first():
    return
  path = path_of(workdir, step)
  draft = path.with_name(f'{path.name}.draft')
  images = _images_at(step, _read_sizes(workdir))
  record = {_RECORD: json.dumps({'step': step, 'images': images})}
  files.write_safetensors(draft, arrays, **record)
  sums = _read_sums(workdir) | {path.name: of_run.sha256(draft)}
  checksums.write_sums(_folder(workdir), sums)
  draft.replace(path)


def thin(workdir: Path, step: int, every: int, keep: int) -> None:
  """Deletes snapshots, so that at most `keep`, evenly spread, and `step` stay.

  Keeps multiples of every, 2 every, 4 every, ...: the first of these intervals
  with at most `keep` multiples up to `step`. The result depends only on step.
  Snapshots at other steps than multiples of `every` stay.
  """
  interval = every
  while step // interval > keep:
    interval *= 2
  if processes.is_first():
    older = [s for s in steps(workdir) if s != step and s % every == 0]
    _delete(workdir, [s for s in older if s % interval])


def steps(workdir: str | Path) -> list[int]:
  """Returns the steps of the snapshots in a run folder, in order."""
  of_run.check_files(_folder(workdir))
  paths = [*_folder(workdir).glob(f'*{_ENDING}')]
  found = {int(path.stem) for path in paths if path.stem.isdecimal()}
  return sorted(step for step in found if path_of(workdir, step) in paths)


def path_of(workdir: str | Path, step: int) -> Path:
  """Returns the file of the snapshot of a step."""
  return _folder(workdir) / f'{step:08d}{_ENDING}'


def read_images(workdir: str | Path, step: int) -> int:
  """Returns a snapshot's number of images; ValueError if it is damaged."""
  path = path_of(workdir, step)
  try:
    return int(json.loads(files.read_metadata(path)[_RECORD])['images'])
  except (KeyError, RecursionError, TypeError, ValueError) as error:
    raise _damaged(path) from error


def check(workdir: str | Path, step: int) -> None:
  """Raises ValueError if a snapshot differs from its checksum."""
  path = path_of(workdir, step)
  try:
    same = of_run.sha256(path) == _read_sums(workdir).get(path.name)
  except OSError:
    same = False
  if not same:
    raise _damaged(path)


def _damaged(path):
  return ValueError(f'{path} is damaged (SHA256SUMS): move it away to use the other snapshots')


def _gather(tree):
  # Returns NumPy arrays in each process, also of parameters that are split.
  if processes.started():
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)
  return jax.device_get(tree)


def _delete(workdir, unwanted):
  sums = _read_sums(workdir)
  for step in unwanted:
    path = path_of(workdir, step)
    path.unlink()
    sums.pop(path.name, None)
  if unwanted:
    checksums.write_sums(_folder(workdir), sums)


def _read_sizes(workdir):
  # Returns [[first step, batch size], ...].
  path = _folder(workdir) / 'batches.json'
  try:
    rows = of_run.read_json(path)['batches']
    return [[int(first), int(size)] for first, size in rows]
  except FileNotFoundError:
    return []
  except (KeyError, OverflowError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read ({error}): it must be like {{"batches": '
      '[[0, 64]]} for batches of 64 from step 0'
    ) from error


def _images_at(step, sizes):
  # Returns the number of images of the first steps.
  ends = [*(first for first, _ in sizes[1:]), step]
  return sum((end - first) * size for (first, size), end in zip(sizes, ends, strict=True))


def _read_sums(workdir):
  try:
    return checksums.read_sums(_folder(workdir))
  except (OSError, ValueError):
    return {}


def _folder(workdir):
  return Path(workdir) / 'snapshots'

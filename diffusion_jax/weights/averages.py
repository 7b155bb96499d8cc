"""Averages of any width (Karras et al. 2024), made from snapshots of a training.

`<workdir>/snapshots/<step>.safetensors` holds the averages of all tracked
widths after a step, each parameter as `<name of the average>/<its path>`, and
the number of images until then. The folder has `SHA256SUMS`, and `batches.json`
with the step at which each batch size began. Process 0 writes a file before the
checkpoint of the same step, so that a continued run has all snapshots.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffusion_jax.aliases import Json, Params
from diffusion_jax.errors import UserError
from diffusion_jax.interop import weight_files
from diffusion_jax.runtime import files as of_run, processes, run_folder
from diffusion_jax.runtime.run_folder import Folder
from diffusion_jax.training import power_ema
from diffusion_jax.weights import checksums, load
from diffusion_jax.weights.checkpoints import check_fits

RECORD = 'average.json'  # the file of a run folder that --mode=average wrote
_METADATA = 'snapshot'  # key in the metadata of a file
# With a larger residual the sum has little to do with the requested average; up
# to it, the parameters' error is about the profile's (docs/training.md).
_LARGEST_RESIDUAL = 0.2
_SIZES = '{"batches": [[0, 64]]} for batches of 64 from step 0'


def begin(workdir: Folder, step: int, batch_size: int) -> float:
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
    for path in out.glob('*.safetensors.draft*'):  # an interrupted write has left it
      path.unlink()
    _delete(workdir, (s for s in steps(workdir) if s > step))
    of_run.write_summed(out / 'batches.json', {'batches': sizes})
  return _images_at(step, sizes) / batch_size - step


def write(workdir: Folder, step: int, averages: dict) -> None:
  """Writes the snapshot of a step, whole or not at all.

  averages: {name: parameters} of all averages of the run. All processes call
  it, since parameters may be split among them.
  """
  widths = {name: x for name, x in averages.items() if power_ema.width_of(name)}
  arrays = weight_files.flatten(_on_host(widths))
  if not processes.is_first():
    return
  path = path_of(workdir, step)
  draft = path.with_name(f'{path.name}.draft')
  images = _images_at(step, _read_sizes(workdir))
  record = json.dumps({'step': step, 'images': images})
  weight_files.write_safetensors(draft, arrays, **{_METADATA: record})
  sums = _read_sums(workdir) | {path.name: of_run.sha256(draft)}
  checksums.write_sums(_folder(workdir), sums)
  draft.replace(path)


def thin(workdir: Folder, step: int, every: int, keep: int) -> None:
  """Deletes snapshots, so that at most `keep`, evenly spread, and `step` stay.

  Keeps multiples of every, 2 every, 4 every, ...: the first of these intervals
  with at most `keep` multiples up to `step`. The result depends only on step.
  Snapshots at other steps than multiples of `every` stay.
  """
  interval = every
  while step // interval > keep:
    interval *= 2
  if processes.is_first():
    multiples = (s for s in steps(workdir) if s != step and s % every == 0)
    _delete(workdir, (s for s in multiples if s % interval))


def steps(workdir: Folder) -> list[int]:
  """Returns the steps of the snapshots in a run folder, in order."""
  of_run.check_files(_folder(workdir))
  paths = [*_folder(workdir).glob('*.safetensors')]
  found = {int(path.stem) for path in paths if path.stem.isdecimal()}
  return sorted(step for step in found if path_of(workdir, step) in paths)


def path_of(workdir: Folder, step: int) -> Path:
  """Returns the file of the snapshot of a step."""
  return _folder(workdir) / f'{step:08d}.safetensors'


def read_images(workdir: Folder, step: int) -> int:
  """Returns a snapshot's number of images; ValueError if it is damaged."""
  path = path_of(workdir, step)
  try:
    return int(json.loads(weight_files.read_metadata(path)[_METADATA])['images'])
  except (KeyError, RecursionError, TypeError, ValueError) as error:
    raise _damaged(path) from error


def check(workdir: Folder, step: int) -> None:
  """Raises ValueError if a snapshot differs from its checksum."""
  path = path_of(workdir, step)
  try:
    same = of_run.sha256(path) == _read_sums(workdir).get(path.name)
  except OSError:
    same = False
  if not same:
    raise _damaged(path)


def read_record(out: str | Path) -> Json:
  """Returns the record of an average that is a run folder; {} if it is missing or damaged."""
  try:
    return of_run.read_summed(Path(out) / RECORD)
  except (OSError, UserError):
    return {}


class MadeAverage(NamedTuple):
  """Holds averaged parameters and the sum of snapshots that they are.

  residual: of the profile, see `power_ema.Solution`; snapshots: how many are in
  the sum.
  """

  params: Params
  sigma_rel: float
  step: int
  images: int
  snapshots: int
  residual: float

  def describe(self) -> str:
    """Returns one line about the average."""
    exact = 'exact' if self.residual < 1e-6 else f'{self.residual:.1g} off'
    plural = 's' if self.snapshots > 1 else ''
    return (
      f'average of relative width {self.sigma_rel} at step {self.step} '
      f'({self.images:,} images), of {self.snapshots} snapshot{plural}, its '
      f'profile {exact}'
    )


def make(workdir: Path, sigma_rel: float, step: int | None, target: Params) -> MadeAverage:
  """Returns the average of a width at a step with a snapshot; None: the latest.

  target: the abstract parameters. Raises FileNotFoundError for a step without a
  snapshot; ValueError for a snapshot that is damaged or of another network, and
  for a width that the snapshots cannot make.
  """
  return run_folder.while_trained(
    workdir, lambda: steps(workdir), lambda: _make(workdir, sigma_rel, step, target)
  )


def _make(workdir, sigma_rel, step, target):
  until = _steps_until(workdir, step)
  for one in until:  # The number of images of each counts.
    check(workdir, one)
  step, images = until[-1], [read_images(workdir, s) for s in until]
  if images[0] < 1 or sorted({*images}) != images:
    raise ValueError(f'the snapshots in {workdir} are of {images} images, which do not increase')
  widths = _widths(workdir, step)
  t = np.repeat(np.array(images, np.float64), len(widths))
  gamma = np.tile([power_ema.exponent(w) for w in widths], len(until))
  solved = power_ema.solve(t, gamma, float(images[-1]), power_ema.exponent(sigma_rel))
  if solved.residual > _LARGEST_RESIDUAL:
    raise ValueError(
      f'the {len(until)} snapshots in {workdir} up to step {step}, of widths '
      f'{", ".join(map(str, widths))}, cannot make an average of width '
      f'{sigma_rel}: its profile would be {solved.residual:.0%} off. Set a '
      'width nearer to these, or train with more snapshots'
    )
  rows = zip(until, solved.weights.reshape(len(until), len(widths)), strict=True)
  used = [(s, dict(zip(widths, row, strict=True))) for s, row in rows if row.any()]
  flat = power_ema.combine(_parts(workdir, used))
  params = load.merged(workdir, weight_files.unflatten(flat))
  check_fits(params, target, f'snapshot {step} in {workdir} is of another network')
  params = jax.device_put(params, jax.local_devices()[0])
  return MadeAverage(params, sigma_rel, step, images[-1], len(used), solved.residual)


def _steps_until(workdir, step):
  # Returns the steps of the snapshots up to `step`; None: to the latest.
  found = steps(workdir)
  if not found and (workdir / RECORD).exists():
    raise FileNotFoundError(
      f'{workdir} is an average: give the workdir of the run it was made from'
    )
  if not found:
    raise FileNotFoundError(
      f'{workdir} has no snapshots, and averages need them: train with '
      '--config.training.average=powers --config.training.average.widths=0.05,0.10'
    )
  if step is not None and step not in found:
    raise FileNotFoundError(
      f'{workdir} has no snapshot {step}: give one of {", ".join(map(str, found))}'
    )
  return [s for s in found if step is None or s <= step]


def _widths(workdir, step):
  names = weight_files.open_tensors(path_of(workdir, step))
  widths = {power_ema.width_of(name.partition('/')[0]) for name in names}
  return sorted(width for width in widths if width is not None)


def _parts(workdir, used):
  # Yields (weight, {path of a parameter: array}), for `power_ema.combine`.
  for step, weights in used:
    tensors = weight_files.open_tensors(path_of(workdir, step))
    for width, weight in weights.items():
      prefix = f'{power_ema.width_name(width)}/'
      names = [name for name in tensors if name.startswith(prefix)]
      if weight:
        yield weight, {n.removeprefix(prefix): tensors[n] for n in names}


def _damaged(path):
  return ValueError(f'{path} is damaged (SHA256SUMS): move it away to use the other snapshots')


def _on_host(tree):
  # Returns NumPy arrays in each process, also of parameters that are split.
  if processes.started():
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)
  return jax.device_get(tree)


def _delete(workdir, steps):
  paths = [path_of(workdir, step) for step in steps]
  for path in paths:
    path.unlink()
  if paths:
    names = {path.name for path in paths}
    sums = {name: x for name, x in _read_sums(workdir).items() if name not in names}
    checksums.write_sums(_folder(workdir), sums)


def _read_sizes(workdir):
  # Returns [[first step, batch size], ...].
  path = _folder(workdir) / 'batches.json'
  try:
    rows = of_run.read_summed(path, f'write {_SIZES}')['batches']
    return [[int(first), int(size)] for first, size in rows]
  except FileNotFoundError:
    return []
  except (KeyError, OverflowError, TypeError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error}): write {_SIZES}') from error


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
  return workdir / 'snapshots'

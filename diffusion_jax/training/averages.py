"""Averages of any width, made of the snapshots of a run (Karras et al. 2024).

See `training.power_ema` for the sum, and `snapshots` for the files.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.interop import files
from diffusion_jax.training import checkpoints, power_ema, snapshots

# Beyond it the sum has little to do with the average that is asked for; below,
# the error of the parameters is about that of the profile (docs/training.md).
_WORST = 0.2
RECORD = 'average.json'  # of a run folder that --mode=average wrote


class Average(NamedTuple):
  """Holds parameters, and what they are the average of.

  residual: of the profile, see `power_ema.Solution`; used: the number of
  snapshots that the sum has.
  """

  params: Any
  sigma_rel: float
  step: int
  images: int
  residual: float
  used: int

  def describe(self) -> str:
    """Returns a line about the average."""
    exact = 'exact' if self.residual < 1e-6 else f'{self.residual:.1g} off'
    plural = 's' if self.used > 1 else ''
    return (
      f'average of relative width {self.sigma_rel:g} at step {self.step} '
      f'({self.images:,} images), of {self.used} snapshot{plural}, its profile '
      f'{exact}'
    )


def make(
  workdir: str | Path, sigma_rel: float, step: int | None, target: Any
) -> Average:
  """Returns the average of a width at a step that has a snapshot; None: latest.

  target: the abstract parameters. FileNotFoundError where the run has no such
  snapshot; ValueError for a damaged one, one of another network, and a width
  that the snapshots cannot make.
  """
  steps, step = find(workdir, step)
  images = [snapshots.read_images(workdir, s) for s in steps]
  widths = read_widths(workdir, step)
  t = np.repeat(np.array(images, np.float64), len(widths))
  gamma = np.tile([power_ema.exponent(w) for w in widths], len(steps))
  solved = power_ema.solve(
    t, gamma, float(images[-1]), power_ema.exponent(sigma_rel)
  )
  if solved.residual > _WORST:
    raise ValueError(
      f'the {len(steps)} snapshots in {workdir} up to step {step}, of widths '
      f'{", ".join(map(str, widths))}, cannot make an average of width '
      f'{sigma_rel:g}: its profile would be {solved.residual:.0%} off. Take a '
      'width nearer to those, or train with more snapshots'
    )
  weights = solved.weights.reshape(len(steps), len(widths))
  used = [(s, row) for s, row in zip(steps, weights, strict=True) if row.any()]
  flat = power_ema.combine(_parts(workdir, used, widths, target))
  device = jax.local_devices()[0]
  params = jax.tree_util.tree_map_with_path(
    lambda path, _: jax.device_put(flat[_name(path)], device), target
  )
  return Average(
    params, sigma_rel, step, images[-1], solved.residual, len(used)
  )


def find(workdir: str | Path, step: int | None) -> tuple[list[int], int]:
  """Returns the steps of all snapshots up to `step`, and it; None: the latest.

  Raises FileNotFoundError where there is none of that step, and says whether
  the run makes any.
  """
  steps = snapshots.steps(workdir)
  if not steps:
    if (Path(workdir) / RECORD).exists():
      raise FileNotFoundError(
        f'{workdir} is an average itself: give the workdir of the run that it '
        'was made from'
      )
    raise FileNotFoundError(
      f'{workdir} has no snapshots yet, and averages are made from snapshots: '
      'a training with --config.training.ema_sigma_rels=0.05,0.10 writes one '
      'every training.snapshot_every steps'
    )
  step = steps[-1] if step is None else step
  if step not in steps:
    raise FileNotFoundError(
      f'there is no snapshot {step} in {workdir}, but '
      f'{", ".join(map(str, steps))}'
    )
  return [s for s in steps if s <= step], step


def read_widths(workdir: str | Path, step: int) -> list[float]:
  """Returns the widths that a snapshot has."""
  names = files.open_tensors(snapshots.path_of(workdir, step))
  found = {power_ema.width_of(name.partition('/')[0]) for name in names}
  return sorted(width for width in found if width is not None)


def _parts(workdir, used, widths, target):
  # Yields (weight, {path of a parameter: array}), for `power_ema.combine`.
  for step, row in used:
    snapshots.check(workdir, step)
    for width, weight in zip(widths, row, strict=True):
      if weight:
        yield weight, _read(workdir, step, width, target)


def _read(workdir, step, width, target):
  path = snapshots.path_of(workdir, step)
  prefix = f'{power_ema.width_name(width)}/'
  tensors = files.open_tensors(path)
  arrays = {
    name.removeprefix(prefix): tensors[name]
    for name in tensors
    if name.startswith(prefix)
  }
  what = f'snapshot {step} in {workdir} is of another network'
  checkpoints.check_fits(arrays, target, what)
  return arrays


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')

"""The averages that a training keeps, and those that its snapshots make.

These have any width (Karras et al. 2024); see `training.power_ema` for the sum,
and `training.snapshots` for the files.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.interop import files
from diffusion_jax.training import base_weights, checkpoints, optimizer, power_ema, snapshots
from diffusion_jax.training.optimizer import EmaRate

Rates = tuple[EmaRate, dict[str, EmaRate]]

# With a larger residual the sum has little to do with the requested average; up
# to it, the parameters' error is about the profile's (docs/training.md).
_LARGEST_RESIDUAL = 0.2
RECORD = 'average.json'  # in a run folder that --mode=average wrote


class Average(NamedTuple):
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
      f'average of relative width {self.sigma_rel:g} at step {self.step} '
      f'({self.images:,} images), of {self.snapshots} snapshot{plural}, its '
      f'profile {exact}'
    )


def make(workdir: str | Path, sigma_rel: float, step: int | None, target: Params) -> Average:
  """Returns the average of a width at a step with a snapshot; None: the latest.

  target: the abstract parameters. Raises FileNotFoundError for a step without
  snapshot; ValueError for a snapshot that is damaged or of another network, and
  for a width that the snapshots cannot make.
  """
  steps, step = find(workdir, step)
  images = [snapshots.read_images(workdir, s) for s in steps]
  widths = read_widths(workdir, step)
  t = np.repeat(np.array(images, np.float64), len(widths))
  gamma = np.tile([power_ema.exponent(w) for w in widths], len(steps))
  width = power_ema.exponent(sigma_rel)
  solved = power_ema.solve(t, gamma, float(images[-1]), width)
  if solved.residual > _LARGEST_RESIDUAL:
    raise ValueError(
      f'the {len(steps)} snapshots in {workdir} up to step {step}, of widths '
      f'{", ".join(map(str, widths))}, cannot make an average of width '
      f'{sigma_rel:g}: its profile would be {solved.residual:.0%} off. Set a '
      'width nearer to these, or train with more snapshots'
    )
  weights = solved.weights.reshape(len(steps), len(widths))
  used = [(s, row) for s, row in zip(steps, weights, strict=True) if row.any()]
  flat = power_ema.combine(_parts(workdir, used, widths))
  params = base_weights.merged(workdir, files.unflatten(flat))
  what = f'snapshot {step} in {workdir} is of another network'
  checkpoints.check_fits(params, target, what)
  params = jax.device_put(params, jax.local_devices()[0])
  about = step, images[-1], len(used), solved.residual
  return Average(params, sigma_rel, *about)


def find(workdir: str | Path, step: int | None) -> tuple[list[int], int]:
  """Returns the steps of the snapshots up to `step`, and `step`; None: latest.

  Raises FileNotFoundError for a step without snapshot.
  """
  steps = snapshots.steps(workdir)
  if not steps and (Path(workdir) / RECORD).exists():
    raise FileNotFoundError(
      f'{workdir} is an average: give the workdir of the run it was made from'
    )
  step = steps[-1] if step is None and steps else step
  if not steps:
    raise FileNotFoundError(
      f'{workdir} has no snapshots, and averages need them: train with '
      '--config.training.ema_sigma_rels=0.05,0.10 and training.snapshot_every'
    )
  if step not in steps or step is None:
    raise FileNotFoundError(
      f'{workdir} has no snapshot {step}: give one of {", ".join(map(str, steps))}'
    )
  return [s for s in steps if s <= step], step


def read_widths(workdir: str | Path, step: int) -> list[float]:
  """Returns the widths of the averages in a snapshot."""
  names = files.open_tensors(snapshots.path_of(workdir, step))
  widths = {power_ema.width_of(name.partition('/')[0]) for name in names}
  return sorted(width for width in widths if width is not None)


def _parts(workdir, used, widths):
  # Yields (weight, {path of a parameter: array}), for `power_ema.combine`.
  for step, row in used:
    snapshots.check(workdir, step)
    tensors = files.open_tensors(snapshots.path_of(workdir, step))
    for width, weight in zip(widths, row, strict=True):
      prefix = f'{power_ema.width_name(width)}/'
      names = [name for name in tensors if name.startswith(prefix)]
      if weight:
        yield weight, {n.removeprefix(prefix): tensors[n] for n in names}


def rates(config: Node, more_steps: float = 0.0) -> Rates:
  """Returns (rate of the main average, {name: rate} of the other averages).

  A rate is step -> 1 - decay. more_steps: see `optimizer.ema_power`.
  """
  c, more = config.training, {}
  with from_config('training'):
    for decay in c.more_ema_decays:
      rate = optimizer.ema_decay(decay, c.ema_warmup)
      more[power_ema.decay_name(decay)] = rate
    for width in c.ema_sigma_rels:
      more[power_ema.width_name(width)] = optimizer.ema_power(width, more_steps)
    if c.ema_half_life is None:
      return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
    half_life = c.ema_half_life
    return optimizer.ema_half_life(half_life, c.batch_size, c.ema_rampup), more


def warning(config: Node) -> str:
  """Returns a line if the average will keep a tenth of its start, or ''."""
  c = config.training
  if c.ema_warmup and c.ema_half_life is None:
    return ''
  later = rates(config)[0](jnp.arange(1, c.num_steps))
  weight = np.prod(1.0 - np.asarray(later, np.float64))
  if weight <= 0.1:
    return ''
  return (
    f'after {c.num_steps} steps the average of the parameters, which previews '
    f'and test losses use, will still be {weight:.0%} the first ones: shorten '
    'it by training.ema_warmup=true or a smaller ema_decay or ema_half_life'
  )

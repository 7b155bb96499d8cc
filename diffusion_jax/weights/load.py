"""Opens the weights of a folder: of a run's checkpoint, or of one shared file."""

from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax.aliases import Params
from diffusion_jax.runtime import buckets
from diffusion_jax.runtime.files import read_json
from diffusion_jax.weights import adapters, checkpoints, share
from diffusion_jax.weights.checkpoints import AVERAGE, check_fits


class Stored(NamedTuple):
  """Holds parameters, on one device, and the config and step stored with them."""

  params: Params
  config: dict
  step: int


def find_step(folder: str | Path, step: int | str = 'latest') -> int:
  """Returns the step of a checkpoint: a step, 'latest' or 'best'."""
  folder = buckets.folder(folder)
  if not share.exist(folder):
    return checkpoints.find_step(folder, step)
  only = share.find_step(folder)
  if step not in ('latest', only):
    raise FileNotFoundError(f'{folder} has the weights of step {only}, and no checkpoint {step}')
  return only


def open(
  folder: str | Path,
  which: str = AVERAGE,
  step: int | str = 'latest',
  target: Params | None = None,
  merge: bool = True,
) -> Stored:
  """Opens the weights of a run, or of a shared folder.

  which: 'average', 'raw', or the name of another average ('0.999'); step: a
  step, 'latest' or 'best'; target: the expected abstract params, None for no
  check; merge: merges adapters with the base weights of the run. Raises
  FileNotFoundError for a checkpoint or average that does not exist, ValueError
  if it is damaged or does not fit `target`.
  """
  folder = buckets.folder(folder)
  if share.exist(folder):
    step = find_step(folder, step)
    if which != AVERAGE:
      raise FileNotFoundError(
        f'{folder} has one set of weights: leave sampling.ema=True and sampling.ema_decay=0'
      )
    params, config = share.read(folder), read_json(Path(folder) / 'config.json')
    what = f'the weights in {folder} are'
  else:
    params, config, step = checkpoints.read(folder, which, step)
    if merge:
      params = adapters.merged(folder, params)
    what = f'checkpoint {step} is'
  if target is not None:
    check_fits(params, target, f'{what} of another network')
  return Stored(jax.device_put(params, jax.local_devices()[0]), config, step)

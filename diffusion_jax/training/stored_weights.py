"""The weights of a folder: of a run's checkpoint, or of one shared file."""

from pathlib import Path

import jax

from diffusion_jax.aliases import Params
from diffusion_jax.runtime.files import read_json
from diffusion_jax.training import base_weights, checkpoints, shared
from diffusion_jax.training.checkpoints import check_fits


def find_step(workdir: str | Path, checkpoint: int | str = 'latest') -> int:
  """Returns the step of a checkpoint: a step, 'latest' or 'best'."""
  if not shared.exist(workdir):
    with checkpoints.open_read_only(workdir) as manager:
      return checkpoints.find_step(manager, checkpoint, workdir)
  step = shared.find_step(workdir)
  if checkpoint not in ('latest', step):
    raise FileNotFoundError(
      f'{workdir} has the weights of step {step}, and no checkpoint {checkpoint}'
    )
  return step


def restore_params(
  workdir: str | Path,
  ema: bool | str = True,
  target: Params | None = None,
  checkpoint: int | str = 'latest',
  merge: bool = True,
) -> tuple[Params, dict]:
  """Returns (params, config) of a checkpoint of a run, on one device.

  ema: True for the average, False for the raw weights, or the name of another
  average ('0.999'); target: the expected abstract params, None for no check;
  checkpoint: a step, 'latest' or 'best'; merge: merges adapters with the base
  weights of the run. Raises FileNotFoundError for a checkpoint or average that
  does not exist, ValueError if it is damaged or does not fit `target`.
  """
  if shared.exist(workdir):
    find_step(workdir, checkpoint)
    params, config = _read_shared(workdir, ema)
    what = f'the weights in {workdir} are'
  else:
    params, config, step = checkpoints.read_params(workdir, ema, checkpoint)
    if merge and base_weights.has_adapters(params):
      params = base_weights.merged(workdir, params)
    what = f'checkpoint {step} is'
  if target is not None:
    check_fits(params, target, f'{what} of another network')
  return jax.device_put(params, jax.local_devices()[0]), config


def _read_shared(workdir, ema):
  if ema is not True:
    raise FileNotFoundError(
      f'{workdir} has one set of weights: leave sampling.ema=True and sampling.ema_decay=0'
    )
  return shared.read(workdir), read_json(Path(workdir) / 'config.json')

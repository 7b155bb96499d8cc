"""Opens the weights of a folder: of a run's checkpoint, or of one shared file.

A run of adapters has `base.safetensors`, the parameters of the network before
it was adapted by their paths, and the scale of the adapters. It is written
once, whole, before the first checkpoint, so that a run can be moved and does
not depend on another.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.data.sums import digest
from diffusion_jax.interop import weight_files
from diffusion_jax.runtime.files import read_summed
from diffusion_jax.runtime.run_folder import Folder, RunFolder
from diffusion_jax.training.lora import A, merge_network
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import checkpoints, share
from diffusion_jax.weights.checkpoints import AVERAGE, by_name, check_fits

_RECORD = 'lora'  # key in the metadata of base weights
_MAX_NAMES = 10  # the most names in one message


class Stored(NamedTuple):
  """Holds parameters, on one device, and the config and step stored with them."""

  params: Params
  config: dict
  step: int


def open(
  folder: str | Folder,
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
  run = RunFolder.at(folder)
  folder = run.path
  if run.is_shared:
    only = share.find_step(folder)
    if step not in ('latest', only):
      raise FileNotFoundError(f'{folder} has the weights of step {only}, and no checkpoint {step}')
    if which != AVERAGE:
      raise FileNotFoundError(
        f'{folder} has one set of weights: leave sampling.weights=average and its decay=0'
      )
    params, config = share.read(folder), read_summed(folder / 'config.json')
    step, what = only, f'the weights in {folder} are'
  else:
    params, config, step = checkpoints.read(folder, which, step)
    if merge:
      params = merged(folder, params)
    what = f'checkpoint {step} is'
  if target is not None:
    check_fits(params, target, f'{what} of another network')
  return Stored(jax.device_put(params, jax.local_devices()[0]), config, step)


def find_step(folder: str | Folder, step: int | str = 'latest') -> int:
  """Returns the step of the weights that `open` opens."""
  run = RunFolder.at(folder)
  folder = run.path
  if run.is_shared:
    return share.find_step(folder)
  return checkpoints.find_step(folder, step)


def base_path(workdir: Folder) -> Path:
  """Returns the file of the base weights of a run."""
  return workdir / 'base.safetensors'


def write_base(workdir: Folder, params: Params, scale: float) -> None:
  """Writes the base weights of a run, and the scale of its adapters."""
  tensors = weight_files.flatten(jax.device_get(params))
  record = {'scale': scale, 'checksum': _sum_of_base(tensors, scale)}
  weight_files.write_safetensors(base_path(workdir), tensors, **{_RECORD: json.dumps(record)})


def read_base(workdir: Folder) -> tuple[Params, float]:
  """Returns (base weights, scale of the adapters).

  Raises ValueError for a file that is missing, or not as it was written.
  """
  path = base_path(workdir)
  if not path.is_file():
    raise ValueError(
      f'{path} is missing: it holds the weights that the adapters in this run '
      'were trained with, and belongs to its folder'
    )
  tensors = weight_files.read_tensors(path)
  with weight_files.reading(path, 'weights'):
    params = weight_files.unflatten(tensors)
  try:
    record = json.loads(weight_files.read_metadata(path)[_RECORD])
    scale, checksum = float(record['scale']), record['checksum']
    if not math.isfinite(scale):
      raise ValueError(f'its scale is {scale}')
  except (KeyError, RecursionError, TypeError, ValueError) as error:
    raise ValueError(f'{path} was not written by a training') from error
  if _sum_of_base(tensors, scale) != checksum:
    raise ValueError(f'{path} is damaged: it differs from its checksum')
  return params, scale


def _sum_of_base(tensors, scale):
  # Returns a sum of all that the file holds: names, arrays and the scale.
  named = (part for name in sorted(tensors) for part in (name.encode(), tensors[name]))
  return digest([repr(float(scale)).encode(), *named])


def has_adapters(params: Params) -> bool:
  """Returns whether parameters are adapters of a network."""
  return A in params.get('network', {})


def merged(workdir: Path, params: Params) -> Params:
  """Returns the parameters of a run, with adapters merged if it has them."""
  if not has_adapters(params):
    return params
  base, scale = read_base(workdir)
  try:
    return merge_network(base, params, scale)
  except (KeyError, TypeError) as error:  # names, shapes
    raise ValueError(
      f'{base_path(workdir)} is of another network than the adapters: {error}'
    ) from error


def begin_from(params: Params, workdir: str) -> Callable[[TrainState], TrainState]:
  """Returns state at step 0 -> the same with the averaged weights of a run.

  params: the state's parameters, or their shapes. A leaf that the run does not
  have, or has in another shape, keeps its value, and its name is printed.
  Raises OSError or ValueError if the folder has no run, and ValueError if more
  than half of the leaves do not fit.
  """
  theirs = by_name(open(workdir).params)
  ours, kept = by_name(params), {}
  for name, x in ours.items():
    if name not in theirs:
      kept[name] = f'{name} {list(x.shape)}'
    elif theirs[name].shape != x.shape:
      other = list(theirs[name].shape)
      kept[name] = f'{name} {list(x.shape)} ({other} there)'
  if 2 * len(kept) > len(ours):
    raise ValueError(
      f'{workdir} is of another network: {len(kept)} of {len(ours)} leaves do '
      f'not fit, such as {next(iter(kept.values()))}'
    )
  print(
    f'weights of {workdir}: {len(ours) - len(kept)} of {len(ours)} leaves'
    + _listed('initialized', list(kept.values()))
    + _listed('not used', [name for name in theirs if name not in ours])
  )

  def leaf(name, x):
    if name in kept:
      return x
    value = np.array(theirs[name])  # a copy, since a state is donated
    return jax.make_array_from_callback(x.shape, x.sharding, lambda index: value[index])

  def place(tree):
    leaves = [leaf(name, x) for name, x in by_name(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)

  return lambda state: state._replace(
    params=place(state.params),
    ema_params=place(state.ema_params),
    more_ema_params={n: place(x) for n, x in state.more_ema_params.items()},
  )


def _listed(what, names):
  if not names:
    return ''
  more = len(names) - _MAX_NAMES
  rest = f' and {more} more' if more > 0 else ''
  return f'; {what}: {", ".join(names[:_MAX_NAMES])}{rest}'

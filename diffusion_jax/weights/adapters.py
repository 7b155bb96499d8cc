"""The weights that a run's adapters belong to: `<workdir>/base.safetensors`.

The file holds the parameters of the network before it was adapted by their
paths, and the scale of the adapters. It is written once, whole, before the
first checkpoint, so that a run can be moved and does not depend on another.
"""

import json
import math
from pathlib import Path

import jax

from diffusion_jax.aliases import Params
from diffusion_jax.interop import files
from diffusion_jax.training.lora import A, merge_network
from diffusion_jax.weights import checksums

_RECORD = 'lora'  # key in the metadata


def path_of(workdir: str | Path) -> Path:
  """Returns the file of the base weights of a run."""
  return Path(workdir) / 'base.safetensors'


def write(workdir: str | Path, params: Params, scale: float) -> None:
  """Writes the base weights of a run, and the scale of its adapters."""
  params = jax.device_get(params)
  record = {'scale': scale, 'checksum': checksums.of_arrays(params)}
  metadata = {_RECORD: json.dumps(record)}
  files.write_safetensors(path_of(workdir), files.flatten(params), **metadata)


def read(workdir: str | Path) -> tuple[Params, float]:
  """Returns (base weights, scale of the adapters).

  Raises ValueError for a file that is missing, or not as it was written.
  """
  path = path_of(workdir)
  if not path.is_file():
    raise ValueError(
      f'{path} is missing: it holds the weights that the adapters in this run '
      'were trained with, and belongs to its folder'
    )
  tensors = files.read_tensors(path)
  with files.reading(path, 'weights'):
    params = files.unflatten(tensors)
  try:
    record = json.loads(files.read_metadata(path)[_RECORD])
    scale, checksum = float(record['scale']), int(record['checksum'])
    if not math.isfinite(scale):
      raise ValueError(f'its scale is {scale}')
  except (KeyError, RecursionError, TypeError, ValueError) as error:
    raise ValueError(f'{path} was not written by a training') from error
  if checksums.of_arrays(params) != checksum:
    raise ValueError(f'{path} is damaged: its weights differ from its checksum')
  return params, scale


def has_adapters(params: Params) -> bool:
  """Returns whether parameters are adapters of a network."""
  return A in params.get('network', {})


def merged(workdir: str | Path, params: Params) -> Params:
  """Returns the parameters of a run, with adapters merged if it has them."""
  if not has_adapters(params):
    return params
  base, scale = read(workdir)
  try:
    return merge_network(base, params, scale)
  except (KeyError, TypeError) as error:  # names, shapes
    raise ValueError(
      f'{path_of(workdir)} is of another network than the adapters: {error}'
    ) from error

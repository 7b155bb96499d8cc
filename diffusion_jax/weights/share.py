"""Weights of a folder that is shared: one safetensors file, no checkpoints.

--mode=convert writes it from one checkpoint of a run. It may come from a
stranger: only safetensors and SHA256SUMS are read, and only in the folder.
"""

from pathlib import Path

import jax

from diffusion_jax.aliases import Params
from diffusion_jax.interop import weight_files
from diffusion_jax.runtime.files import is_regular, sha256, warn
from diffusion_jax.runtime.run_folder import SHARED
from diffusion_jax.weights import checksums


def write(folder: Path, params: Params, step: int) -> None:
  """Writes weights and their SHA256SUMS into an existing folder."""
  arrays = weight_files.flatten(jax.device_get(params))
  weight_files.write_safetensors(folder / SHARED, arrays, step=str(step))
  checksums.write_sums(folder, {SHARED: sha256(folder / SHARED)})


def find_step(folder: str | Path) -> int:
  """Returns the step of the weights; ValueError if they cannot be read."""
  step = weight_files.read_metadata(_file_of(folder)).get('step', '')
  if not step.isdecimal():
    raise ValueError(f'{folder}: the metadata of {SHARED} have no step')
  return int(step)


def read(folder: str | Path) -> Params:
  """Returns the weights; ValueError if they differ from SHA256SUMS."""
  path = _file_of(folder)
  try:
    expected = checksums.read_sums(path.parent).get(SHARED)
  except (OSError, ValueError):
    warn(f'{folder} has no {checksums.NAME}: it is read unchecked')
  else:
    if sha256(path) != expected:
      raise ValueError(f'{path} is not what was written ({checksums.NAME}): copy it again')
  with weight_files.reading(path, 'weights'):
    return weight_files.unflatten(weight_files.Lazy(path))


def same(one: str | Path, other: str | Path) -> bool:
  """Returns whether two folders have the same weights."""
  return sha256(_file_of(one)) == sha256(_file_of(other))


def _file_of(folder):
  path = Path(folder) / SHARED
  if not is_regular(path):
    raise ValueError(f'{path} is not a file')
  return path

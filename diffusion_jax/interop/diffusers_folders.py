"""Where the parts of a folder of diffusers are, and how they are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.interop import (
  diffusers_transformer as transformer,
  diffusers_unet as unet,
  files,
)

INDEX, CONFIG = 'model_index.json', 'config.json'
SCHEDULER = 'scheduler_config.json'
_WEIGHTS = 'diffusion_pytorch_model'
FILES = tuple(
  f'{_WEIGHTS}{ending}'
  for ending in (
    '.safetensors',
    f'.safetensors{files.INDEX}',
    '.bin',
    '.fp16.safetensors',
    '.fp16.bin',
  )
)
_VERSION = '0.42.1'  # whose folders are written


def find_model(path: Path) -> Path | None:
  """Returns the folder with the config.json of a model, or None.

  path: this folder, or that of a pipeline, which has it as a part.
  """
  for folder in (*(path / part for part in _MODELS), path):
    if (folder / CONFIG).is_file():
      return folder
  return None


def folder_of(path: Path) -> Path:
  """Returns the folder of the model in a folder, a pipeline, or of a file.

  Raises ValueError if there is no model, and for pipelines of other models.
  """
  if path.is_file() and path.suffix != '.json':
    return path.parent
  if not path.is_dir():
    raise ValueError(f'there is no folder {path}')
  if (path / INDEX).is_file():
    _check_pipeline(path)
  # pipelines of diffusers before 0.2 have all files in one folder
  folder = find_model(path)
  if folder is None:
    raise ValueError(f'{path} is no folder of diffusers: it has no {CONFIG}')
  return folder


def _check_pipeline(path):
  index = files.read_json(path / INDEX)
  parts = {
    name: value[1]
    for name, value in index.items()
    if isinstance(value, list) and len(value) == 2 and value[1] is not None
  }
  for name, (kinds, others) in _MODELS.items():
    if parts.get(name) in kinds and parts.keys() <= {name, *others}:
      return
  listed = ', '.join(f'{name} ({kind})' for name, kind in parts.items())
  raise ValueError(
    f'{path} is a {index.get("_class_name")} with {listed or "no parts"}: '
    'pipelines of a UNet2DModel, or of a DiT and its AutoencoderKL, can be '
    'read, or the folder of one of these models within it'
  )


# The parts of a pipeline that are models: their classes, and other parts that
# such a pipeline has.
_MODELS = {
  'unet': ((unet.CLASS,), ('scheduler',)),
  'transformer': (
    (transformer.CLASS, 'Transformer2DModel'),
    ('scheduler', 'vae'),
  ),
}


def find_scheduler(folder: Path, path: Path) -> Path | None:
  """Returns the scheduler_config.json of a model or a pipeline, or None."""
  places = path / 'scheduler', folder, folder.parent / 'scheduler'
  for place in places:
    if (place / SCHEDULER).is_file():
      return place / SCHEDULER
  return None


def write_model(
  folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]
) -> None:
  """Writes the config.json and the weights of a model."""
  folder.mkdir(parents=True, exist_ok=True)
  # diffusers refuses files that do not say that their tensors are PyTorch's
  path = folder / f'{_WEIGHTS}.safetensors'
  files.write_safetensors(path, tensors, format='pt')
  write_json(folder / CONFIG, config)


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes a JSON file as diffusers has them."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {**content, '_diffusers_version': _VERSION}
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')

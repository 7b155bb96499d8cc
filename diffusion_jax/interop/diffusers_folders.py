"""Finds and writes the parts of a folder of diffusers."""

import json
from pathlib import Path

from diffusion_jax.interop import (
  diffusers_transformer as transformer,
  diffusers_unet as unet,
  files,
)
from diffusion_jax.interop.names import Tensors, require
from diffusion_jax.interop.options import Options

INDEX, CONFIG = 'model_index.json', 'config.json'
SCHEDULER = 'scheduler_config.json'
# The files of weights, in the order in which they are looked for.
FILES = (
  'diffusion_pytorch_model.safetensors',
  'diffusion_pytorch_model.safetensors.index.json',
  'diffusion_pytorch_model.bin',
  'diffusion_pytorch_model.fp16.safetensors',
  'diffusion_pytorch_model.fp16.bin',
)
# The model of a pipeline is in a folder of this name, and is of these classes.
MODELS = {
  'unet': (unet.CLASS,),
  'transformer': (transformer.CLASS, 'Transformer2DModel'),
}
# The parts that a pipeline may have besides its model.
OTHERS = {'unet': ('scheduler',), 'transformer': ('scheduler', 'vae')}
_VERSION = '0.42.1'  # of diffusers, for the folders that we write


def find_model(path: Path) -> Path | None:
  """Returns the folder with the config.json of a model, or None.

  path: this folder, or the pipeline that contains it.
  """
  for folder in (*(path / part for part in MODELS), path):
    if (folder / CONFIG).is_file():
      return folder
  return None


def folder_of(path: Path) -> Path:
  """Returns the model's folder, given itself, a pipeline or a file of weights.

  Raises ValueError if it does not find a model, and for other pipelines.
  """
  if path.is_file() and path.suffix != '.json':
    return path.parent
  require(path.is_dir(), f'there is no folder {path}')
  if (path / INDEX).is_file():
    _check_pipeline(path)
  # Pipelines of diffusers before 0.2 have all files in one folder.
  folder = find_model(path)
  if folder is None:
    raise ValueError(
      f'{path} is not a folder of diffusers: it does not contain {CONFIG}'
    )
  return folder


def _check_pipeline(path):
  index = files.read_json(path / INDEX)
  parts = {
    name: value[1]
    for name, value in index.items()
    if isinstance(value, list) and len(value) == 2 and value[1] is not None
  }
  listed = ', '.join(f'{name} ({kind})' for name, kind in parts.items())
  require(
    any(
      parts.get(name) in MODELS[name] and parts.keys() <= {name, *OTHERS[name]}
      for name in MODELS
    ),
    f'{path} is a {index.get("_class_name")} with {listed or "no parts"}: give '
    'a pipeline of a UNet2DModel, or of a DiT and its AutoencoderKL, or the '
    'folder of one of these models within it',
  )


def find_scheduler(folder: Path, path: Path) -> Path | None:
  """Returns the scheduler_config.json of a model or a pipeline, or None."""
  places = path / 'scheduler', folder, folder.parent / 'scheduler'
  for place in places:
    if (place / SCHEDULER).is_file():
      return place / SCHEDULER
  return None


def write_model(folder: Path, config: Options, tensors: Tensors) -> None:
  """Writes the config.json and the weights of a model."""
  folder.mkdir(parents=True, exist_ok=True)
  # diffusers refuses files without the format of PyTorch.
  files.write_safetensors(folder / FILES[0], tensors, format='pt')
  write_json(folder / CONFIG, config)


def write_json(path: Path, content: Options) -> None:
  """Writes a JSON file with the version of diffusers."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {**content, '_diffusers_version': _VERSION}
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')

"""The formats of other projects' weights: which one a file has, and its reader."""

import importlib
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.aliases import Json
from diffusion_jax.data import npz
from diffusion_jax.interop import diffusers, weight_files
from diffusion_jax.interop.reader import Imported
from diffusion_jax.paths import existing

OURS = 'safetensors'  # a safetensors file with a config in its metadata
OTHERS = 'diffusers', 'openai', 'score_sde', 'edm', 'edm2'  # a module each


def load(name: str, source: Path, model: str, options: Json) -> Imported:
  """Reads weights by the module of a format; ValueError for an unknown option.

  Readers take options as keywords, and refuse those that they do not know.
  """
  _check_no_adapters(source)
  module = importlib.import_module(f'diffusion_jax.interop.{name}')
  if model and options.get('model', model) != model:
    raise ValueError(f'model={model} and options with model={options["model"]}: give one of them')
  return module.load(source, **({'model': model} if model else {}) | options)


def recognise(source: Path) -> str:
  """Recognises the format of a folder or file; ValueError for any other."""
  existing(source, 'file or folder')
  _check_no_adapters(source)
  if source.is_dir():
    if diffusers.find_model(source) or (source / diffusers.INDEX).is_file():
      return 'diffusers'
    raise ValueError(
      f'{source} is not a folder of diffusers, which has a model_index.json or a config.json: '
      'give such a folder or a file of weights'
    )
  if source.name.startswith('diffusion_pytorch_model'):
    return 'diffusers'
  if source.suffix == '.safetensors':
    if 'config' in weight_files.read_metadata(source):
      return OURS
    if source.with_suffix('.json').is_file():
      is_edm2 = 'unet.out_gain' in weight_files.open_tensors(source)
      return 'edm2' if is_edm2 else 'edm'
  weight_files.check_kind(source)
  _check_no_graph(source)
  every = '|'.join((*OTHERS, OURS))
  raise ValueError(f'the format of {source} is ambiguous: give --config.convert.format={every}')


def _check_no_adapters(source):
  names: Iterable[str] = ()
  if source.is_dir() and diffusers.find_model(source) is None:
    names = (path.name for path in source.iterdir())
  elif source.suffix == '.safetensors' and source.is_file():
    names = weight_files.open_tensors(source)
  if any('lora_' in n or n.startswith('adapter_model.') for n in names):
    raise ValueError(
      f'{source} holds adapters (LoRA), which are not read: merge them into '
      "their network first (PEFT's merge_and_unload, diffusers' fuse_lora), "
      'and convert that'
    )


def _check_no_graph(source):
  # The variables of Ho et al.'s graph.
  is_npz = weight_files.kind_of(source) == 'npz'
  if is_npz and any(n.endswith('conv_in/W') for n in npz.names_of(source)):
    raise ValueError(
      f'{source} has the variables of a TensorFlow graph of Ho et al., which '
      'are not read: give a folder of diffusers with the same weights, such as '
      'google/ddpm-cifar10-32'
    )

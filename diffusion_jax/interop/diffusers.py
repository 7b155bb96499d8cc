"""Folders of diffusers: UNet2DModel, DiT, AutoencoderKL, whole pipelines.

They are read and written without diffusers; only old weights in `.bin` need
torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from diffusion_jax.atomic_files import draft_folder
from diffusion_jax.autoencoders.networks import Autoencoder
from diffusion_jax.interop import (
  diffusers_autoencoder as autoencoder,
  diffusers_schedulers as schedulers,
  diffusers_transformer as transformer,
  diffusers_unet as unet,
  names,
  reader,
  weight_files,
)
from diffusion_jax.interop.diffusers_options import modern, sides
from diffusion_jax.interop.names import Params, Tensors, require
from diffusion_jax.interop.options import Options, check, check_known
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet


def load(path: str | Path, /, **options: object) -> reader.Imported:
  """Reads a UNet2DModel, a DiTTransformer2DModel or an AutoencoderKL.

  path: the folder of the model, of a pipeline of a U-Net or a DiT, or the file
  of the weights. null_class=True, of a U-Net: the last class means no class,
  for guidance. noise_embedding='openai', of a DiT: with the frequencies of
  DiT's release instead of diffusers' ('ho'). Raises ValueError in one line
  for folders of other models, options without a counterpart, and weights that
  do not fit config.json.
  """
  path = Path(path)
  folder = folder_of(path)
  config = weight_files.read_json(folder / CONFIG)
  kind = str(config.get('_class_name'))
  require(
    kind in _LOADERS, f'{folder} is a folder of the class {kind}: give one of {", ".join(_LOADERS)}'
  )
  loader, takes = _LOADERS[kind]
  check_known(kind, takes, options)
  weights = path if path.is_file() else weight_files.find(folder, FILES)
  scheduler = find_scheduler(folder, path if path.is_dir() else folder)
  imported = loader(config, weights, scheduler, **options)
  if not (path / 'vae' / CONFIG).is_file():
    return imported
  note = (
    f'this model makes latents of the AutoencoderKL in {path / "vae"}: '
    'convert that first, and then this with --config.latent.run=<its run>'
  )
  return imported._replace(notes=(*imported.notes, note))


def save(
  folder: str | Path,
  network: nn.Module,
  params: Params,
  sections: reader.Sections,
  facts: reader.ImageFacts,
  label: int | None = None,
) -> str:
  """Writes a folder that from_pretrained of diffusers loads; returns what its pipeline lacks.

  For a `UNet` it suits DDPMPipeline, DDIMPipeline and, in unet/, UNet2DModel;
  for a `DiT` it contains transformer/ for DiTTransformer2DModel and scheduler/,
  the parts of a DiTPipeline; for an `Autoencoder` it suits AutoencoderKL.
  sections, facts: of an `Imported`; image_shape is the shape of the latents if
  a network works on latents. label: the class that a U-Net always draws, since
  these pipelines give none; -1 is the null class. Raises ValueError for fields
  without a counterpart in diffusers, and for a folder with files.
  """
  folder, shape = Path(folder), facts['image_shape']
  require(
    not (folder.is_dir() and any(folder.iterdir())),
    f'{folder} already contains files: give another folder',
  )
  with draft_folder(folder) as new:
    config = _write(new, network, params, sections, shape, label)
  if not config.get('num_class_embeds') or config['_class_name'] != 'UNet2DModel':
    return ''
  return 'DDPMPipeline gives no class_labels, which this UNet2DModel needs in each call'


def _write(folder, network, params, sections, shape, label):
  name = type(network).__name__
  check('config', {'network': name}, {'network': tuple(_NETWORKS)}, 'in diffusers')
  part, module = _NETWORKS[name]
  if not part:  # it is in no pipeline
    require(label is None, f'label={label}: an autoencoder has no classes')
    config = module.write_config(network, sections['decoding']['scale'] or 1.0)
    write_model(folder, config, module.write(network, params))
    return config
  require(
    'parametrization' in sections,
    'diffusers has no pipeline of this model: it has autoencoders, and '
    'diffusion models whose network predicts eps, x0 or v',
  )
  require(
    label is None or module is unet,
    f'label={label}: only pipelines of a U-Net give no class; those of {name} take class_labels',
  )
  scheduler = schedulers.write_config(sections)
  if label is not None:
    network, params = fix_label(network, params, label)
  config = module.write_config(network, shape)
  write_model(folder / part, config, module.write(network, params))
  if module is unet:
    parts = {'scheduler': scheduler, 'unet': config}
    listed = {name: ['diffusers', x['_class_name']] for name, x in parts.items()}
    write_json(folder / INDEX, {'_class_name': 'DDPMPipeline', **listed})
  write_json(folder / 'scheduler' / SCHEDULER, scheduler)
  return config


def tensors_of(network: nn.Module, params: Params) -> Tensors:
  """Returns the state dict in diffusers of a network that `save` writes."""
  return _NETWORKS[type(network).__name__][1].write(network, params)


def adapters_of(
  network: nn.Module, adapters: Params, scale: float, shape: Sequence[int]
) -> Tensors:
  """Returns LoRA adapters by their names in diffusers and PEFT.

  These are transformer.<layer>.lora_A.weight and, of a U-Net,
  unet.<layer>.lora_B.weight. B is multiplied by `scale`, so that alpha is the
  rank. adapters: {'lora_A': tree, 'lora_B': tree}, see `training.lora`; shape:
  of the images or latents. Raises ValueError as `save`.
  """
  down, up = adapters['lora_A'], adapters['lora_B']
  name = type(network).__name__
  prefix, module = _NETWORKS.get(name, ('', None))
  known = ', '.join(name for name, (prefix, _) in _NETWORKS.items() if prefix)
  require(bool(prefix), f'adapters of {name} have no names in diffusers: {known}')
  module.write_config(network, shape)
  outputs = module.write(network, up, names.KERNEL)
  if module is transformer:
    down = transformer.shared_by_qkv(down)
  tensors: dict[str, np.ndarray] = {}
  for weight, a in module.write(network, down).items():
    name, b = f'{prefix}.{weight.removesuffix("weight")}', outputs[weight]
    b = np.float32(scale) * b.reshape(*b.shape, *[1] * (a.ndim - 2))
    tensors |= {f'{name}lora_A.weight': a, f'{name}lora_B.weight': b}
  return tensors


def fix_label(network: UNet, params: Params, label: int) -> tuple[UNet, Params]:
  """Returns a U-Net without classes that always draws one class.

  The embedding of a class is added to the output of the layer noise_dense_2, so
  it becomes part of the bias. label: -1 is the null class.
  """
  classes, null = network.inputs.num_classes, network.inputs.null_class
  require(
    classes > 0 and -null <= label < classes,
    f'label={label}: this network has {classes} classes from 0 '
    f'{"and -1 for none" if null else "and no null class"}',
  )
  rest = {n: x for n, x in params.items() if n != 'label_embedding'}
  table = np.asarray(params['label_embedding']['table']['embedding'])
  dense = dict(rest['noise_dense_2'])
  dense['bias'] = np.asarray(dense['bias']) + table[label]
  return network.clone(inputs=Inputs()), rest | {'noise_dense_2': dense}


def _load_unet(config, weights, scheduler, null_class=False):
  network, fields, c = unet.read_config(config)
  if null_class:
    classes = network.inputs.num_classes
    require(classes > 0, 'null_class needs a class-conditional model')
    network = network.clone(inputs=Inputs(num_classes=classes - 1, null_class=True))
  # Our order is [sin, cos] for 'ho', and [cos, sin] for 'openai'.
  swapped = bool(c.flip_sin_to_cos) == (network.noise_embedding == 'ho')
  options, sections, notes = _read_scheduler(scheduler)
  learned = network.out_channels == 2 * c.in_channels
  variance = options.get('variance_type')
  require(
    learned == (variance == 'learned_range'),
    f'UNet2DModel: out_channels={network.out_channels} with in_channels='
    f"{c.in_channels} does not fit the scheduler's variance_type={variance!r}: "
    'learned_range has twice the channels',
  )
  shape = *sides(c.sample_size, unet.CLASS), c.in_channels
  sections |= _sections('unet', network, fields, learned)
  table = unet.layers_of(network, swapped)
  facts = reader.facts_of(shape, network.inputs.num_classes)
  model = reader.ForeignModel(network, table, sections, facts, notes)
  with _reading(weights):
    return model.read(weight_files.open_tensors(weights, modern))


def _load_transformer(config, weights, scheduler, noise_embedding=None):
  network, fields, c = transformer.read_config(config, noise_embedding)
  shape = *sides(c.sample_size, transformer.CLASS), c.in_channels
  _, sections, notes = _read_scheduler(scheduler)
  learned = network.out_channels == 2 * c.in_channels
  sections |= _sections('dit', network, fields, learned)
  shapes = reader.shapes_of(network, sections, shape)
  with _reading(weights):
    params = transformer.read(network, weight_files.open_tensors(weights), shapes)
  if noise_embedding is None:
    notes = *notes, _FREQUENCIES
  if c.norm_eps != transformer.NORM_EPS:
    notes = *notes, f'norm_eps={c.norm_eps} is {transformer.NORM_EPS} here'
  facts = reader.facts_of(shape, network.inputs.num_classes)
  return reader.Imported(network, params, sections, facts, notes)


def _load_autoencoder(config, weights, scheduler):
  model = autoencoder.describe(config)
  with _reading(weights):
    return model.read(weight_files.open_tensors(weights, modern))


def _reading(weights):
  return weight_files.reading(weights, f'the network of {CONFIG}')


def _sections(name, network, fields, learned):
  return {
    'network': {'name': name, **fields},
    'objective': {'name': 'hybrid' if learned else 'denoising'},
    'conditioning': {
      'labels': network.inputs.num_classes > 0,
      'dropout': 0.1 if network.inputs.null_class else 0.0,
    },
  }


# The loader of each class, and the options that `load` takes for it.
_LOADERS = {
  unet.CLASS: (_load_unet, ('null_class',)),
  transformer.CLASS: (_load_transformer, ('noise_embedding',)),
  'Transformer2DModel': (_load_transformer, ('noise_embedding',)),
  autoencoder.CLASS: (_load_autoencoder, ()),
}
_FREQUENCIES = (
  'the noise is embedded as in diffusers; DiT was released with other '
  'frequencies, which --config.convert.options=noise_embedding=openai gives'
)
_NO_SCHEDULER = (
  'there is no scheduler_config.json: the default of diffusers is used, '
  'DDPMScheduler with 1000 linear betas from 0.0001 to 0.02, which predicts eps'
)


def _read_scheduler(path):
  # Returns (options, sections, notes); the default for no path.
  if path is None:
    sections, notes = schedulers.read_sections(schedulers.DDPM)
    return schedulers.DDPM, sections, (_NO_SCHEDULER, *notes)
  options = weight_files.read_json(path)
  return options, *schedulers.read_sections(options)


# The folder of a network in a pipeline, and its module, by its class here.
_NETWORKS: dict[str, tuple[str, Any]] = {
  UNet.__name__: ('unet', unet),
  DiT.__name__: ('transformer', transformer),
  Autoencoder.__name__: ('', autoencoder),
}
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
MODELS = {'unet': (unet.CLASS,), 'transformer': (transformer.CLASS, 'Transformer2DModel')}
# The parts that a pipeline may have besides its model.
OTHERS = {'unet': ('scheduler',), 'transformer': ('scheduler', 'vae')}
_VERSION = '0.42.1'  # the version of diffusers in the folders that we write


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
    raise ValueError(f'{path} is not a folder of diffusers: it does not contain {CONFIG}')
  return folder


def _check_pipeline(path):
  index = weight_files.read_json(path / INDEX)
  parts = {
    name: value[1]
    for name, value in index.items()
    if isinstance(value, list) and len(value) == 2 and value[1] is not None
  }
  listed = ', '.join(f'{name} ({kind})' for name, kind in parts.items())
  require(
    any(
      parts.get(name) in MODELS[name] and parts.keys() <= {name, *OTHERS[name]} for name in MODELS
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
  weight_files.write_safetensors(folder / FILES[0], tensors, format='pt')
  write_json(folder / CONFIG, config)


def write_json(path: Path, content: Options) -> None:
  """Writes a JSON file with the version of diffusers."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {**content, '_diffusers_version': _VERSION}
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')

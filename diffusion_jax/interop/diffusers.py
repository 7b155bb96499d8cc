"""Folders of diffusers: UNet2DModel, DiT, AutoencoderKL, whole pipelines.

Neither diffusers nor torch is needed, but torch for old weights in `.bin`.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop import diffusers_networks as networks
from diffusion_jax.interop import diffusers_schedulers as schedulers
from diffusion_jax.interop import diffusers_transformer as transformer
from diffusion_jax.interop import files, names
from diffusion_jax.interop.names import Imported
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet

INDEX, _CONFIG = 'model_index.json', 'config.json'
_SCHEDULER = 'scheduler_config.json'
_WEIGHTS = 'diffusion_pytorch_model'
_FILES = tuple(
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


def load(path: str | Path, **options: Any) -> Imported:
  """Reads a UNet2DModel, a DiTTransformer2DModel or an AutoencoderKL.

  path: the folder of the model, of a pipeline of a U-Net or a DiT, or the file
  of the weights. null_class=True, of a U-Net: the last class is the one without
  a class, for guidance. noise_embedding='openai', of a DiT: with the
  frequencies of DiT's release, not those of diffusers ('ho'). Raises ValueError
  in one line for folders of other models, options that our networks do not
  have, and weights that do not fit config.json.
  """
  path = Path(path)
  folder = _folder_of(path)
  config = files.read_json(folder / _CONFIG)
  kind = config.get('_class_name')
  if kind not in _LOADERS:
    raise ValueError(
      f'{folder} is a folder of {kind or "no class of diffusers"}: '
      f'{", ".join(_LOADERS)} can be read'
    )
  loader, takes = _LOADERS[kind]
  other = [name for name in options if name != takes]
  if other:
    only = f'{takes} can be given' if takes else 'it takes none'
    raise ValueError(f'{other[0]} is no option of {kind}: {only}')
  weights = path if path.is_file() else files.find(folder, _FILES)
  scheduler = _find_scheduler(folder, path if path.is_dir() else folder)
  found = loader(config, weights, scheduler, **options)
  if not (path / 'vae' / _CONFIG).is_file():
    return found
  note = (
    f'this model makes latents of the AutoencoderKL in {path / "vae"}: '
    'convert that first, and then this with --config.latent.run=<its run>'
  )
  return found._replace(notes=(*found.notes, note))


def find_model(path: Path) -> Path | None:
  """Returns the folder with the config.json of a model, or None.

  path: this folder, or that of a pipeline, which has it as a part.
  """
  for folder in (*(path / part for part in _MODELS), path):
    if (folder / _CONFIG).is_file():
      return folder
  return None


def save(
  folder: str | Path,
  network: Any,
  params: Any,
  fields: Mapping[str, Any],
  label: int | None = None,
) -> None:
  """Writes a folder that from_pretrained of diffusers loads.

  Of a `UNet` one for DDPMPipeline, DDIMPipeline and, in unet/, UNet2DModel; of
  a `DiT` transformer/ for DiTTransformer2DModel and scheduler/, the parts of a
  DiTPipeline; of an `Autoencoder` one for AutoencoderKL. fields: as of
  `Imported`. label: the class that a U-Net always has from then on, since these
  pipelines give none; -1 is none, the null class. Raises ValueError for what
  diffusers does not have, and for a folder with files.
  """
  folder = Path(folder)
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(f'{folder} has files already: give another folder')
  if isinstance(network, Autoencoder):
    scale = fields.get('latent.scale') or 1.0
    config = networks.autoencoder_config(network, scale)
    _write_model(folder, config, networks.write(network, params))
    return
  if isinstance(network, DiT):
    scheduler = schedulers.write_config(fields)
    shape = fields.get('latent.shape') or fields['data.image_shape']
    config = transformer.transformer_config(network, tuple(shape))
    tensors = transformer.write(network, params)
    _write_model(folder / 'transformer', config, tensors)
    _write_json(folder / 'scheduler' / _SCHEDULER, scheduler)
    return
  if not isinstance(network, UNet):
    raise ValueError(
      f'{type(network).__name__} is no network of diffusers: unet, dit and '
      'autoencoder are'
    )
  if label is not None:
    network, params = fix_label(network, params, label)
  scheduler = schedulers.write_config(fields)
  config = networks.unet_config(network, tuple(fields['data.image_shape']))
  _write_model(folder / 'unet', config, networks.write(network, params))
  _write_json(folder / 'scheduler' / _SCHEDULER, scheduler)
  _write_json(folder / INDEX, {
    '_class_name': 'DDPMPipeline',
    'scheduler': ['diffusers', scheduler['_class_name']],
    'unet': ['diffusers', config['_class_name']],
  })  # fmt: skip


def fix_label(network: UNet, params: Any, label: int) -> tuple[UNet, Any]:
  """Returns the U-Net and the parameters of one class, which is not given.

  The embedding of a class is added to the output of the layer noise_dense_2:
  that of `label` becomes part of its bias. -1: the null class.
  """
  classes = network.num_classes
  if not classes or (label < 0 and not network.null_class) or label >= classes:
    null = 'and -1 for none' if network.null_class else 'and no null class'
    raise ValueError(
      f'label={label}: this network has {classes} classes from 0 {null}'
    )
  rest = {n: x for n, x in params.items() if n != 'label_embedding'}
  table = np.asarray(params['label_embedding']['table']['embedding'])
  dense = dict(rest['noise_dense_2'])
  dense['bias'] = np.asarray(dense['bias']) + table[label]
  plain = network.clone(num_classes=0, null_class=False)
  return plain, rest | {'noise_dense_2': dense}


def _load_unet(config, weights, scheduler, null_class=False):
  options = networks.unet_options(config)
  classes = options['num_classes'] - null_class
  if null_class and classes < 1:
    raise ValueError('null_class needs a class-conditional model')
  network = UNet(**options | {'num_classes': classes, 'null_class': null_class})
  c = networks.UNET | dict(config)
  height, width = networks.sides(c['sample_size'], 'UNet2DModel')
  x = jnp.zeros((1, height, width, c['in_channels']))
  cond = {'label': jnp.zeros(1, jnp.int32)} if classes else {}
  shapes = _shapes(network, x, jnp.zeros(1), cond)
  # [sin, cos] is our order of 'ho', [cos, sin] that of 'openai'
  swapped = bool(c['flip_sin_to_cos']) == (network.noise_embedding == 'ho')
  params = _read(network, weights, shapes, swapped)
  found, fields, notes = _read_scheduler(scheduler)
  learned = network.out_channels == 2 * c['in_channels']
  if learned != (fields['sampling.variance'] == 'learned'):
    raise ValueError(
      f'UNet2DModel: out_channels={network.out_channels} with in_channels='
      f"{c['in_channels']} and the scheduler's variance_type="
      f'{found.get("variance_type")!r}: learned_range has twice the channels'
    )
  skipped = 'out_channels', 'num_classes'
  fields |= {f'network.{n}': x for n, x in options.items() if n not in skipped}
  fields |= {
    'network.name': 'unet',
    'network.learned_variance': learned,
    'data.image_shape': (height, width, c['in_channels']),
    'conditioning.labels': classes > 0,
    'conditioning.dropout': 0.1 if null_class else 0.0,
  }
  if classes:  # else the data may have any number of them
    fields['data.num_classes'] = classes
  return Imported(network, params, fields, notes)


def _load_transformer(config, weights, scheduler, noise_embedding=None):
  options = transformer.transformer_options(config, noise_embedding)
  network = DiT(**options)
  c = transformer.OPTIONS | dict(config)
  height, width = networks.sides(c['sample_size'], transformer.CLASS)
  x = jnp.zeros((1, height, width, c['in_channels']))
  shapes = _shapes(network, x, jnp.zeros(1), {'label': jnp.zeros(1, jnp.int32)})
  tensors = files.open_tensors(weights)
  with _fits(weights):
    params = transformer.read(network, tensors, shapes)
  _, fields, notes = _read_scheduler(scheduler)
  skipped = 'out_channels', 'num_classes', 'null_class'
  fields |= {f'network.{n}': x for n, x in options.items() if n not in skipped}
  fields |= {
    'network.name': 'dit',
    'network.learned_variance': network.out_channels == 2 * c['in_channels'],
    'data.image_shape': (height, width, c['in_channels']),
    'data.num_classes': network.num_classes,
    'conditioning.labels': True,
    'conditioning.dropout': 0.1,
  }
  if noise_embedding is None:
    notes = *notes, _FREQUENCIES
  if c['norm_eps'] != transformer.NORM_EPS:
    notes = *notes, f'norm_eps={c["norm_eps"]} is {transformer.NORM_EPS} here'
  return Imported(network, params, fields, notes)


def _load_autoencoder(config, weights, scheduler):
  options = networks.autoencoder_options(config)
  network = Autoencoder(**options)
  height, width = network.image_size
  shape = height, width, network.out_channels
  params = _read(network, weights, _shapes(network, jnp.zeros((1, *shape))))
  skipped = 'image_size', 'out_channels'
  fields = {f'network.{n}': x for n, x in options.items() if n not in skipped}
  scale = (networks.AUTOENCODER | dict(config))['scaling_factor']
  fields |= {
    'network.name': 'autoencoder',
    'objective.name': 'vae',
    'objective.decoder': 'unit_gaussian',
    'data.image_shape': shape,
    'latent.scale': float(scale),
  }
  return Imported(network, params, fields)


# The loader of each class, and the option that `load` takes for it.
_LOADERS = {
  'UNet2DModel': (_load_unet, 'null_class'),
  transformer.CLASS: (_load_transformer, 'noise_embedding'),
  'Transformer2DModel': (_load_transformer, 'noise_embedding'),
  'AutoencoderKL': (_load_autoencoder, ''),
}
_FREQUENCIES = (
  'the noise is embedded as by diffusers; DiT was released with other '
  'frequencies, which --config.convert.options=noise_embedding=openai gives'
)
_NO_SCHEDULER = (
  'there is no scheduler_config.json: taken is the default of diffusers, '
  'DDPMScheduler with 1000 linear betas from 0.0001 to 0.02, which predicts eps'
)


def _read_scheduler(path):
  # Returns (scheduler_config.json, fields, notes); the default for no path.
  if path is None:
    fields, notes = schedulers.read_fields(schedulers.DDPM)
    return schedulers.DDPM, fields, (_NO_SCHEDULER, *notes)
  found = files.read_json(path)
  return found, *schedulers.read_fields(found)


def _shapes(network, *inputs):
  variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  return variables['params']


def _read(network, weights, shapes, swap_waves=False):
  tensors = files.open_tensors(weights, networks.modern)
  table = networks.entries(network, shapes, swap_waves)
  with _fits(weights):
    return names.read(table, tensors, shapes)


@contextlib.contextmanager
def _fits(weights):
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{weights} does not fit {_CONFIG}: {error}') from error


def _folder_of(path):
  # Returns the folder of the model.
  if path.is_file() and path.suffix != '.json':
    return path.parent
  if not path.is_dir():
    raise ValueError(f'there is no folder {path}')
  if (path / INDEX).is_file():
    _check_pipeline(path)
  # pipelines of diffusers before 0.2 have all files in one folder
  folder = find_model(path)
  if folder is None:
    raise ValueError(f'{path} is no folder of diffusers: it has no {_CONFIG}')
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
  'unet': (('UNet2DModel',), ('scheduler',)),
  'transformer': (
    (transformer.CLASS, 'Transformer2DModel'),
    ('scheduler', 'vae'),
  ),
}


def _find_scheduler(folder, path):
  places = path / 'scheduler', folder, folder.parent / 'scheduler'
  for place in places:
    if (place / _SCHEDULER).is_file():
      return place / _SCHEDULER
  return None


def _write_model(folder, config, tensors):
  folder.mkdir(parents=True, exist_ok=True)
  # diffusers refuses files that do not say that their tensors are PyTorch's
  path = folder / f'{_WEIGHTS}.safetensors'
  files.write_safetensors(path, tensors, format='pt')
  _write_json(folder / _CONFIG, config)


def _write_json(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {**content, '_diffusers_version': _VERSION}
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')

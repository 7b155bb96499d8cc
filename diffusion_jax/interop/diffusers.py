"""Folders of diffusers: UNet2DModel, DiT, AutoencoderKL, whole pipelines.

diffusers is not needed, and torch only for old weights in `.bin`.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.interop import (
  diffusers_autoencoder as autoencoder,
  diffusers_folders as folders,
  diffusers_schedulers as schedulers,
  diffusers_transformer as transformer,
  diffusers_unet as unet,
  files,
  layers,
  names,
)
from diffusion_jax.interop.diffusers_options import modern, sides
from diffusion_jax.interop.options import check_known
from diffusion_jax.interop.reader import Imported, Model, facts_of, shapes_of
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet


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
  folder = folders.folder_of(path)
  config = files.read_json(folder / folders.CONFIG)
  kind = config.get('_class_name')
  if kind not in _LOADERS:
    raise ValueError(
      f'{folder} is a folder of {kind or "no class of diffusers"}: '
      f'{", ".join(_LOADERS)} can be read'
    )
  loader, takes = _LOADERS[kind]
  check_known(kind, takes, options)
  weights = path if path.is_file() else files.find(folder, folders.FILES)
  scheduler = folders.find_scheduler(folder, path if path.is_dir() else folder)
  imported = loader(config, weights, scheduler, **options)
  if not (path / 'vae' / folders.CONFIG).is_file():
    return imported
  note = (
    f'this model makes latents of the AutoencoderKL in {path / "vae"}: '
    'convert that first, and then this with --config.latent.run=<its run>'
  )
  return imported._replace(notes=(*imported.notes, note))


def save(
  folder: str | Path,
  network: Any,
  params: Any,
  sections: Mapping[str, Any],
  facts: Mapping[str, Any],
  label: int | None = None,
) -> None:
  """Writes a folder that from_pretrained of diffusers loads.

  For a `UNet` it is one for DDPMPipeline, DDIMPipeline and, in unet/,
  UNet2DModel; for a `DiT` it has transformer/ for DiTTransformer2DModel and
  scheduler/, the parts of a DiTPipeline; for an `Autoencoder` it is one for
  AutoencoderKL. sections, facts: as of `Imported`; image_shape is that of the
  latents in which a network works. label: the class that a U-Net draws from
  then on, since these pipelines give none; -1 is the null class. Raises
  ValueError for what diffusers does not have, and for a folder with files.
  """
  folder, shape = Path(folder), facts['image_shape']
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(f'{folder} has files already: give another folder')
  if not isinstance(network, UNet | DiT | Autoencoder):
    raise ValueError(
      f'{type(network).__name__} is no network of diffusers: unet, dit and '
      'autoencoder are'
    )
  if isinstance(network, Autoencoder):
    scale = sections['decoding']['scale'] or 1.0
    config = autoencoder.write_config(network, scale)
    folders.write_model(folder, config, _tensors(autoencoder, network, params))
    return
  scheduler = schedulers.write_config(sections)
  if isinstance(network, DiT):
    config = transformer.write_config(network, shape)
    tensors = transformer.write(network, params)
    folders.write_model(folder / 'transformer', config, tensors)
    folders.write_json(folder / 'scheduler' / folders.SCHEDULER, scheduler)
    return
  if label is not None:
    network, params = fix_label(network, params, label)
  config = unet.write_config(network, shape)
  folders.write_model(folder / 'unet', config, _tensors(unet, network, params))
  folders.write_json(folder / 'scheduler' / folders.SCHEDULER, scheduler)
  folders.write_json(folder / folders.INDEX, {
    '_class_name': 'DDPMPipeline',
    'scheduler': ['diffusers', scheduler['_class_name']],
    'unet': ['diffusers', config['_class_name']],
  })  # fmt: skip


def _tensors(module, network, params):
  table = layers.entries(module.layers_of(network), params)
  return names.write(table, params)


def fix_label(network: UNet, params: Any, label: int) -> tuple[UNet, Any]:
  """Returns a U-Net without classes that always draws one class.

  The embedding of a class is added to the output of the layer noise_dense_2, so
  it becomes part of the bias. label: -1 is the null class.
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
  network, fields, c = unet.read_config(config)
  if null_class:
    if not network.num_classes:
      raise ValueError('null_class needs a class-conditional model')
    classes = network.num_classes - 1
    network = network.clone(num_classes=classes, null_class=True)
  # [sin, cos] is our order of 'ho', [cos, sin] that of 'openai'
  swapped = bool(c.flip_sin_to_cos) == (network.noise_embedding == 'ho')
  options, sections, notes = _read_scheduler(scheduler)
  learned = network.out_channels == 2 * c.in_channels
  if learned != (options.get('variance_type') == 'learned_range'):
    raise ValueError(
      f'UNet2DModel: out_channels={network.out_channels} with in_channels='
      f"{c.in_channels} and the scheduler's variance_type="
      f'{options.get("variance_type")!r}: learned_range has twice the channels'
    )
  shape = *sides(c.sample_size, unet.CLASS), c.in_channels
  sections |= _sections('unet', network, fields, learned)
  table = unet.layers_of(network, swapped)
  model = Model(
    network, table, sections, facts_of(shape, network.num_classes), notes
  )
  with _fits(weights):
    return model.read(files.open_tensors(weights, modern))


def _load_transformer(config, weights, scheduler, noise_embedding=None):
  network, fields, c = transformer.read_config(config, noise_embedding)
  shape = *sides(c.sample_size, transformer.CLASS), c.in_channels
  _, sections, notes = _read_scheduler(scheduler)
  learned = network.out_channels == 2 * c.in_channels
  sections |= _sections('dit', network, fields, learned)
  shapes = shapes_of(network, sections, shape)
  with _fits(weights):
    tensors = files.open_tensors(weights)
    params = transformer.read(network, tensors, shapes)
  if noise_embedding is None:
    notes = *notes, _FREQUENCIES
  if c.norm_eps != transformer.NORM_EPS:
    notes = *notes, f'norm_eps={c.norm_eps} is {transformer.NORM_EPS} here'
  facts = facts_of(shape, network.num_classes)
  return Imported(network, params, sections, facts, notes)


def _load_autoencoder(config, weights, scheduler):
  model = autoencoder.describe(config)
  with _fits(weights):
    return model.read(files.open_tensors(weights, modern))


def _sections(name, network, fields, learned):
  return {
    'network': {'name': name, **fields},
    'objective': {'name': 'hybrid' if learned else 'denoising'},
    'conditioning': {
      'labels': network.num_classes > 0,
      'dropout': 0.1 if network.null_class else 0.0,
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
  'the noise is embedded as by diffusers; DiT was released with other '
  'frequencies, which --config.convert.options=noise_embedding=openai gives'
)
_NO_SCHEDULER = (
  'there is no scheduler_config.json: taken is the default of diffusers, '
  'DDPMScheduler with 1000 linear betas from 0.0001 to 0.02, which predicts eps'
)


def _read_scheduler(path):
  # Returns (options, sections, notes); the default for no path.
  if path is None:
    sections, notes = schedulers.read_sections(schedulers.DDPM)
    return schedulers.DDPM, sections, (_NO_SCHEDULER, *notes)
  options = files.read_json(path)
  return options, *schedulers.read_sections(options)


@contextlib.contextmanager
def _fits(weights):
  try:
    yield
  except ValueError as error:
    raise ValueError(
      f'{weights} does not fit {folders.CONFIG}: {error}'
    ) from error

"""Weights of EDM (Karras et al. 2022): its DDPM++, NCSN++ and ADM networks.

Their pickles run code, so the state dict is read from a safetensors file, and
the options of the network from a JSON file of the same name next to it; both
are written where EDM is installed (docs/weights.md).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffusion_jax.interop.edm_options import FIELDS, choose_options
from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  TORCH,
  Kind,
  Layer,
  expand,
  resnet_block,
)
from diffusion_jax.interop.names import LINEAR, SAME, Rule
from diffusion_jax.interop.options import beside, fields_of
from diffusion_jax.interop.reader import Imported, Model, eps_sections, facts_of
from diffusion_jax.interop.ve import as_eps
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.unet import UNet

FILTER = 'resample_filter'  # a buffer of layers that change the resolution

ADM: dict[str, Any] = {
  'noise_embedding': 'openai',
  'scale_shift': True,
  'resblock_updown': True,
  'head_channels': 64,
  'qkv': 'interleaved',
  'norm_eps': 1e-5,
  'initializer': 'torch',
}

BLOCK = resnet_block(
  TORCH, 'norm0', 'conv0', 'affine', 'norm1', 'conv1', 'skip'
)
# Their UNetBlock is a residual block and the attention after it.
ATTENTION = (
  Layer('norm', 'norm2', TORCH.norm),
  Layer('qkv', 'qkv', TORCH.pointwise),
  Layer('proj_out', 'proj', TORCH.pointwise),
)
# ADM's labels: a Linear without bias of one-hot vectors. No label is the vector
# of zeros, so a null class is a row of zeros after the others.
_ROWS_AND_NULL = Rule(
  lambda x: np.concatenate([x.T, np.zeros_like(x.T[:1])]), lambda x: x[:-1].T
)
# {end} is where DDPM++ has its last layers. A block that changes the resolution
# has the name of the resolution that it makes.
LAYERS = {
  'noise_dense_1': ('map_layer0', TORCH.linear),
  'noise_dense_2': ('map_layer1', TORCH.linear),
  'label_embedding/linear': ('map_label', TORCH.linear),
  'augment_dense': ('map_augment', TORCH.linear),
  'noise_fourier': ('map_noise', Kind({'frequencies': ('freqs', SAME)})),
  'conv_in': ('enc.{height}x{height}_conv', TORCH.conv),
  'down_{level}_{i}_block': ('enc.{side}x{side}_block{i}', BLOCK),
  'down_{level}_{i}_attention': ('enc.{side}x{side}_block{i}', ATTENTION),
  'down_{level}_downsample': ('enc.{half}x{half}_down', BLOCK),
  'down_{level}_pyramid': ('enc.{half}x{half}_aux_residual', TORCH.conv),
  'middle_0_block': ('dec.{side}x{side}_in0', BLOCK),
  'middle_attention': ('dec.{side}x{side}_in0', ATTENTION),
  'middle_1_block': ('dec.{side}x{side}_in1', BLOCK),
  'up_{level}_{i}_block': ('dec.{side}x{side}_block{i}', BLOCK),
  'up_{level}_{i}_attention': ('dec.{side}x{side}_block{i}', ATTENTION),
  'up_{level}_upsample': ('dec.{twice}x{twice}_up', BLOCK),
}


def load(path: str | Path, **options: Any) -> Imported:
  """Returns the network of a .safetensors file with a .json next to it.

  options: keywords of EDM's classes, in place of those of the JSON file, which
  may be left out if img_resolution and model_type are given. Raises ValueError
  for an option that our networks do not have and tensors that do not fit.
  """
  options = beside(path, options)
  return from_tensors(read_tensors(path), **options)


def from_tensors(tensors: Mapping[str, np.ndarray], **options: Any) -> Imported:
  """Returns the network of a state dict; the arguments are those of `load`."""
  chosen = choose_options(**options)
  _check_filters(tensors, getattr(chosen, FILTER, (1, 1)))
  imported = describe(chosen).read(tensors, _is_buffer)
  if chosen.precond == 'VEPrecond':
    return imported._replace(params=as_eps(imported.params))
  return imported


def _is_buffer(name):
  return name == 'u' or name.endswith(FILTER)


def _check_filters(tensors, expected):
  weights = np.array(expected, np.float32)
  square = np.outer(weights, weights) / weights.sum() ** 2
  for name, x in tensors.items():
    stored = np.asarray(x)[0, 0] if np.ndim(x) == 4 else np.asarray(x)
    same = stored.shape == square.shape and np.allclose(stored, square)
    if name.endswith(FILTER) and not same:
      raise ValueError(
        f'{name}, of shape {np.shape(x)}, is not the filter of the option '
        f'{FILTER}={expected}'
      )


def describe(options: SimpleNamespace) -> Model:
  """Returns the network of the options."""
  o, shape = options, (options.img_resolution,) * 2 + (options.img_channels,)
  fields, adm = fields_of(o, FIELDS), o.model_type == 'DhariwalUNet'
  given = {
    'num_classes': o.label_dim,
    'null_class': o.label_dim > 0 and o.label_dropout > 0,
    'out_channels': o.img_channels * (1 + (o.precond == 'iDDPMPrecond')),
  }
  conditioning = {'labels': o.label_dim > 0, 'dropout': float(o.label_dropout)}
  if adm:
    stem = int(o.model_channels * o.channel_mult[0])
    fields |= ADM | {'stem_channels': stem}
    network: Any = UNet(**fields, **given)
  else:
    if o.embedding_type == 'fourier':
      fields['noise_embedding'] = 'fourier'
    if o.encoder_type == 'residual':
      fields['input_pyramid'] = True
    if o.resample_filter != (1, 1):
      fields['resample_filter'] = o.resample_filter
    conditioning['augment'] = 0.12 if o.augment_dim else 0.0
    network = DDPMpp(**fields, **given, augment_dim=o.augment_dim)
  sections = {
    'network': {'name': 'unet' if adm else 'ddpmpp', **fields},
    'conditioning': conditioning,
    **_process(o),
  }
  facts = facts_of(shape, o.label_dim)
  layers = list(_layers(network, o.img_resolution))
  return Model(network, layers, sections, facts, tuple(_notes(o)))


def _layers(network, height) -> Iterator[Layer]:
  rows, end = Kind({'embedding': ('weight', LINEAR)}), 'out'
  if network.null_class:
    rows = Kind({'embedding': ('weight', _ROWS_AND_NULL)})
  if isinstance(network, DDPMpp):
    end = f'dec.{height}x{height}_aux'
  ends = {
    'label_embedding/table': ('map_label', rows),
    'norm_out': (f'{end}_norm', TORCH.norm),
    'conv_out': (f'{end}_conv', TORCH.conv),
  }
  for layer in expand(LAYERS | ends, network, height):
    yield layer._replace(theirs=f'model.{layer.theirs}')


def _process(o):
  # How the wrapper scales the input and the output, and names the noise.
  num_steps = 18 if o.img_resolution <= 32 else 40
  heun = {'sampler': {'name': 'heun'}, 'num_steps': num_steps, 'clip': False}
  if o.precond == 'EDMPrecond':
    return {
      'schedule': {'name': 'karras'},
      'noise_input': {'name': 'edm'},
      'parametrization': {'name': 'edm', 'sigma_data': o.sigma_data},
      'objective': {
        'name': 'denoising',
        'times': {'name': 'log_normal'},
        'weight': {'name': 'edm'},
      },
      'sampling': heun,
    }
  if o.precond == 'iDDPMPrecond':
    sampler = {'name': 'ancestral', 'variance': 'learned'}
    sections = eps_sections(
      {'name': 'cosine', 'num_steps': o.M},
      {'name': 'step'},
      {'sampler': sampler, 'num_steps': o.M},
    )
    objective = {'name': 'hybrid', 'weight': {'name': 'snr'}}
    return sections | {'objective': objective}
  if o.precond == 'VPPrecond':
    ends = {'beta_min': o.beta_min, 'beta_max': o.beta_min + o.beta_d}
    return eps_sections(
      {'name': 'linear_vp', **ends},
      {'name': 'time', 'scale': o.M - 1.0},
      heun | {'spacing': 'karras'},
      t_min=o.epsilon_t,
    )
  ends = {'sigma_min': o.sigma_min, 'sigma_max': o.sigma_max}
  return eps_sections(
    {'name': 'geometric_ve', **ends},
    {'name': 'log_sigma'},
    heun | {'spacing': 'karras'},
    t_min=1e-5,
  )


def _notes(o):
  if o.use_fp16:
    yield 'EDM computes this network in float16; here it is float32'
  if o.augment_dim:
    yield (
      "trained with labels of augmentation: without cond['augment'] images "
      'are as they are'
    )

"""Weights of Song et al. 2021: DDPM++ and NCSN++, in JAX and PyTorch.

A checkpoint of either is read: Flax's msgpack, with the parameters of legacy
Flax, or PyTorch's .pth, whose averages are a list in the order of the state
dict. Networks of the VE SDE become networks of eps (`ve.as_eps`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffusion_jax.interop import options
from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import TORCH, Style
from diffusion_jax.interop.options import fields_of
from diffusion_jax.interop.reader import (
  Imported,
  Model,
  eps_sections,
  facts_of,
  shapes_of,
)
from diffusion_jax.interop.score_sde_layers import FLAX, fuse, layers_of
from diffusion_jax.interop.ve import as_eps
from diffusion_jax.networks.ddpmpp import DDPMpp

# The fields of their configs with defaults, and `ema`: whether the averaged
# parameters are read.
OPTIONS: dict[str, Any] = {
  'sde': 'vpsde',
  'continuous': True,
  'image_size': 32,
  'nf': 128,
  'ch_mult': (1, 2, 2, 2),
  'num_res_blocks': 4,
  'attn_resolutions': (16,),
  'dropout': 0.1,
  'beta_min': 0.1,
  'beta_max': 20.0,
  'sigma_min': 0.01,
  'sigma_max': 50.0,
  'name': 'ncsnpp',
  'fir': False,
  'fir_kernel': (1, 3, 3, 1),
  'progressive': 'none',
  'progressive_input': 'none',
  'embedding_type': 'positional',
  'resblock_type': 'biggan',
  'scale_by_sigma': False,
  'ema': True,
}
# Fields of `DDPMpp`, and the option for each.
FIELDS = {
  'channels': 'nf',
  'multipliers': 'ch_mult',
  'num_blocks': 'num_res_blocks',
  'attention_resolutions': 'attn_resolutions',
  'dropout': 'dropout',
}
_DEEP = {'num_res_blocks': 8}
_SUB = {'sde': 'subvpsde'}
_NCSNPP = {'fir': True, 'progressive_input': 'residual'}
_VE = _NCSNPP | {
  'sde': 'vesde',
  'embedding_type': 'fourier',
  'scale_by_sigma': True,
}

# The published checkpoints, by the folder that they are in.
MODELS: dict[str, dict[str, Any]] = {
  'vp/cifar10_ddpmpp': {'continuous': False},
  'vp/cifar10_ddpmpp_continuous': {},
  'vp/cifar10_ddpmpp_deep_continuous': _DEEP,
  'subvp/cifar10_ddpmpp_continuous': _SUB,
  'subvp/cifar10_ddpmpp_deep_continuous': _SUB | _DEEP,
  'vp/cifar10_ddpm': {'name': 'ddpm', 'continuous': False},
  'vp/cifar10_ddpm_continuous': {'name': 'ddpm'},
  'subvp/cifar10_ddpm_continuous': {'name': 'ddpm'} | _SUB,
  've/cifar10_ncsnpp': _VE | {'continuous': False},
  've/cifar10_ncsnpp_continuous': _VE,
  've/cifar10_ncsnpp_deep_continuous': _VE | _DEEP,
}


# Random frequencies, which are not trained.
_FREQUENCIES = r'all_modules\.\d+\.W'


def _allowed(o):
  # NCSN++ of the VE SDE is read in continuous time only.
  ve = o.sde == 'vesde'
  return {
    'sde': ('vpsde', 'subvpsde', 'vesde'),
    'continuous': (True,) if ve else (True, False),
    'name': ('ncsnpp',),
    'progressive': ('none',),
    'progressive_input': ('none', 'residual'),
    'resblock_type': ('biggan',),
    'embedding_type': ('fourier',) if ve else ('positional',),
    'scale_by_sigma': (ve,),
    'fir': (True,) if o.progressive_input == 'residual' else (True, False),
  }


def load(path: str | Path, model: str = '', **options: Any) -> Imported:
  """Returns the network of a checkpoint, .pth or Flax's msgpack.

  model: a name of MODELS, by default that of the folder (the last two parts of
  its path). options: as in OPTIONS, in place of the model's. Raises
  ValueError for an unknown model, for what our networks do not have, by name,
  and for tensors that do not fit.
  """
  model = model or '/'.join(Path(path).resolve().parent.parts[-2:])
  return from_tensors(read_tensors(path), model, **options)


def from_tensors(
  tensors: Mapping[str, np.ndarray], model: str, **options: Any
) -> Imported:
  """Returns the network of a checkpoint; the arguments are those of `load`.

  tensors: of `files.read_tensors`, names of nested dicts joined by '/'.
  """
  chosen = choose_options(model, **options)
  variables, style = model_variables(tensors, chosen.ema)
  imported = describe(chosen, style).read(fuse(variables))
  if chosen.sde == 'vesde':
    return imported._replace(params=as_eps(imported.params))
  return imported


def choose_options(model: str, **given: Any) -> SimpleNamespace:
  """Returns the options of a name of MODELS, or the given ones instead."""
  hint = 'name the one whose config the training had'
  defaults = OPTIONS | options.of_model(MODELS, model, hint)
  return options.complete(model, defaults, given, _allowed)


def model_variables(
  tensors: Mapping[str, np.ndarray], ema: bool
) -> tuple[dict[str, np.ndarray], Style]:
  """Returns the parameters of the network by name, and their style.

  Raises ValueError if there are none, or no averages of them.
  """
  trained = _under(tensors, 'optimizer/target/')
  flax = _under(tensors, 'params_ema/') if ema else trained
  if trained and not flax:
    raise ValueError('no averages, params_ema: ema=False takes the parameters')
  if flax:
    return _under(flax, 'params/') or flax, FLAX
  states = _under(tensors, 'model/') or dict(tensors)
  trained = {
    name.removeprefix('module.'): x
    for name, x in states.items()
    if not name.endswith('sigmas')
  }
  if not any(name.startswith('all_modules.') for name in trained):
    raise ValueError(
      'no params_ema and no model.all_modules: this is no checkpoint of '
      'score_sde or score_sde_pytorch'
    )
  return (_averages(tensors, trained) if ema else trained), TORCH


def _under(tensors, prefix):
  return {
    name.removeprefix(prefix): x
    for name, x in tensors.items()
    if name.startswith(prefix)
  }


def _averages(tensors, trained):
  # ema.shadow_params is a list in the order of the trained parameters.
  frozen = {n: x for n, x in trained.items() if re.fullmatch(_FREQUENCIES, n)}
  trained = {n: x for n, x in trained.items() if n not in frozen}
  shadows = _under(tensors, 'ema/shadow_params/')
  if not shadows:
    raise ValueError(
      'no averages, ema.shadow_params: ema=False takes the model'
    )
  values = [shadows[name] for name in sorted(shadows, key=int)]
  same = len(values) == len(trained) and all(
    np.shape(average) == np.shape(x)
    for average, x in zip(values, trained.values(), strict=True)
  )
  if not same:
    raise ValueError(
      f'ema.shadow_params, {len(values)} tensors, are not averages of the '
      f'{len(trained)} parameters of the model: ema=False takes the model'
    )
  return frozen | dict(zip(trained, values, strict=True))


def describe(options: SimpleNamespace, style: Style) -> Model:
  """Returns the network of the options; style: of the checkpoint."""
  o = options
  fields = fields_of(o, FIELDS)
  if o.embedding_type == 'fourier':
    fields['noise_embedding'] = 'fourier'
  if o.fir:
    fields['resample_filter'] = o.fir_kernel
  if o.progressive_input == 'residual':
    fields['input_pyramid'] = True
  network, shape = DDPMpp(**fields), (o.image_size, o.image_size, 3)
  sections = {'network': {'name': 'ddpmpp', **fields}, **_process(o)}
  shapes = shapes_of(network, sections, shape)
  layers = list(layers_of(network, shapes, style))
  return Model(network, layers, sections, facts_of(shape, 0))


def _process(o):
  sampling: dict[str, Any] = {'num_steps': 1000, 'clip': False}
  if o.sde == 'vesde':  # of images in [-1, 1], with twice the noise
    ends = {'sigma_min': 2.0 * o.sigma_min, 'sigma_max': 2.0 * o.sigma_max}
    sampling['sampler'] = {'name': 'reverse_diffusion'}
    sampling['corrector'] = {'name': 'langevin', 'steps': 1}
    return eps_sections(
      {'name': 'geometric_ve', **ends}, {'name': 'log_sigma'}, sampling, 1e-5
    )
  if o.sde == 'vpsde' and not o.continuous:
    ends = {'start': o.beta_min / 1000, 'end': o.beta_max / 1000}
    sampling['sampler'] = {'name': 'ancestral'}
    schedule = {'name': 'linear', 'num_steps': 1000, **ends}
    return eps_sections(schedule, {'name': 'step'}, sampling)
  name = 'linear_vp' if o.sde == 'vpsde' else 'sub_vp'
  schedule = {'name': name, 'beta_min': o.beta_min, 'beta_max': o.beta_max}
  sampling['sampler'] = {'name': 'euler_maruyama'}
  noise_input = {'name': 'time', 'scale': 999.0}
  return eps_sections(schedule, noise_input, sampling, 1e-5)

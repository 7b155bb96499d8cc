"""Weights of Song et al. 2021: DDPM++ and NCSN++, in JAX and PyTorch.

A checkpoint of either is read: Flax's msgpack, with the parameters of legacy
Flax, or PyTorch's .pth, whose averages are a list in the order of the state
dict. Networks of the VE SDE become networks that predict eps.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from diffusion_jax.interop import names, reader
from diffusion_jax.interop.names import SAME, TORCH, Layer, LayerNames, Tensors
from diffusion_jax.interop.options import complete, fields_of, models, of_model, of_text, typed
from diffusion_jax.interop.weight_files import read_tensors
from diffusion_jax.networks.ddpmpp import DDPMpp

# The fields of their configs with defaults; ema: read the EMA weights.
OPTIONS = of_text("""
  sde=vpsde continuous=True image_size=32 nf=128 ch_mult=1,2,2,2 num_res_blocks=4
  attn_resolutions=16, dropout=0.1 beta_min=0.1 beta_max=20.0 sigma_min=0.01 sigma_max=50.0
  name=ncsnpp fir=False fir_kernel=1,3,3,1 progressive=none progressive_input=none
  embedding_type=positional resblock_type=biggan scale_by_sigma=False ema=True
""")
# Fields of `DDPMpp`, with the option for each.
FIELDS = of_text("""
  channels=nf multipliers=ch_mult num_blocks=num_res_blocks attention_resolutions=attn_resolutions
  dropout=dropout
""")

# The published checkpoints by their folder.
MODELS = models("""
  vp/cifar10_ddpmpp                     continuous=False
  vp/cifar10_ddpmpp_continuous
  vp/cifar10_ddpmpp_deep_continuous     num_res_blocks=8
  subvp/cifar10_ddpmpp_continuous       sde=subvpsde
  subvp/cifar10_ddpmpp_deep_continuous  sde=subvpsde num_res_blocks=8
  vp/cifar10_ddpm                       name=ddpm continuous=False
  vp/cifar10_ddpm_continuous            name=ddpm
  subvp/cifar10_ddpm_continuous         name=ddpm sde=subvpsde
  ve/cifar10_ncsnpp_continuous          sde=vesde embedding_type=fourier scale_by_sigma=True \
    fir=True progressive_input=residual
  ve/cifar10_ncsnpp                     ve/cifar10_ncsnpp_continuous continuous=False
  ve/cifar10_ncsnpp_deep_continuous     ve/cifar10_ncsnpp_continuous num_res_blocks=8
""")

# Random frequencies, which are not trained.
_FREQUENCIES = re.compile(r'all_modules\.\d+\.W')


def load(path: str | Path, /, model: str = '', **options: object) -> reader.Imported:
  """Returns the network of a checkpoint, .pth or Flax's msgpack.

  model: a name of MODELS; by default the last two folders of the path. options:
  as in OPTIONS, which override the model's. Raises ValueError for an unknown
  model, an option without a counterpart, and tensors that do not fit.
  """
  model = model or '/'.join(Path(path).resolve().parent.parts[-2:])
  return from_tensors(read_tensors(path), model, **options)


def from_tensors(tensors: Tensors, model: str, /, **options: object) -> reader.Imported:
  """Returns the network of a checkpoint; the arguments are as for `load`.

  tensors: of `files.read_tensors`, which joins nested names by '/'.
  """
  chosen = choose_options(model, **options)
  variables, style = model_variables(tensors, chosen.ema)
  imported = describe(chosen, style).read(fuse(variables))
  if chosen.sde == 'vesde':
    return imported._replace(params=reader.ve_as_eps(imported.params))
  return imported


def choose_options(model: str, /, **given: object) -> SimpleNamespace:
  """Returns the options of a name in MODELS; the given ones override them."""
  hint = 'name the model whose config the training used'
  defaults = {**OPTIONS, **of_model(MODELS, model, hint)}
  return complete(model, defaults, typed(model, defaults, given), _allowed)


def _allowed(o):
  # Networks of the VE SDE are read in continuous time only.
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


def model_variables(tensors: Tensors, ema: bool) -> tuple[Tensors, LayerNames]:
  """Returns the parameters of the network by name, and their style.

  Raises ValueError if the file does not contain them, or no averages of them.
  """
  trained = names.under(tensors, 'optimizer/target/')
  flax = names.under(tensors, 'params_ema/') if ema else trained
  _check_averages('params_ema', bool(flax) or not trained)
  if flax:
    return names.under(flax, 'params/') or flax, FLAX
  states = names.under(tensors, 'model/') or dict(tensors)
  trained = {
    name.removeprefix('module.'): x for name, x in states.items() if not name.endswith('sigmas')
  }
  names.require(
    any(name.startswith('all_modules.') for name in trained),
    'there is no params_ema and no model.all_modules: this is not a checkpoint '
    'of score_sde or score_sde_pytorch',
  )
  if not ema:
    return trained, TORCH
  # ema.shadow_params is a list in the order of the trained parameters.
  shadows = names.under(tensors, 'ema/shadow_params/')
  _check_averages('ema.shadow_params', bool(shadows))
  averaged = {n: x for n, x in trained.items() if not _FREQUENCIES.fullmatch(n)}
  values = [shadows[name] for name in sorted(shadows, key=int)]
  shapes = [[np.shape(x) for x in v] for v in (values, averaged.values())]
  names.require(
    shapes[0] == shapes[1],
    f'ema.shadow_params, {len(values)} tensors, do not have the shapes of the '
    f"model's {len(averaged)} parameters: pass ema=False to read the raw ones",
  )
  return trained | dict(zip(averaged, values, strict=True)), TORCH


def _check_averages(name, present):
  names.require(
    present,
    f'the checkpoint does not contain EMA weights ({name}): pass ema=False to read the raw ones',
  )


def describe(options: SimpleNamespace, style: LayerNames) -> reader.ForeignModel:
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
  layers = list(layers_of(network, reader.shapes_of(network, sections, shape), style))
  return reader.ForeignModel(network, layers, sections, reader.facts_of(shape, 0))


def _process(o):
  sampling: reader.Sections = {'num_steps': 1000, 'bound': None}
  if o.sde == 'vesde':  # Our images lie in [-1, 1]: the noise is doubled.
    ends = {'sigma_min': 2.0 * o.sigma_min, 'sigma_max': 2.0 * o.sigma_max}
    sampling['sampler'] = {'name': 'reverse_diffusion'}
    sampling['corrector'] = {'name': 'langevin', 'steps': 1}
    return reader.eps_sections(
      {'name': 'geometric_ve', **ends}, {'name': 'log_sigma'}, sampling, 1e-5
    )
  if o.sde == 'vpsde' and not o.continuous:
    ends = {'start': o.beta_min / 1000, 'end': o.beta_max / 1000}
    sampling['sampler'] = {'name': 'ancestral'}
    schedule = {'name': 'linear', 'num_steps': 1000, **ends}
    return reader.eps_sections(schedule, {'name': 'step'}, sampling)
  name = 'linear_vp' if o.sde == 'vpsde' else 'sub_vp'
  schedule = {'name': name, 'beta_min': o.beta_min, 'beta_max': o.beta_max}
  sampling['sampler'] = {'name': 'euler_maruyama'}
  noise_input = {'name': 'time', 'scale': 999.0}
  return reader.eps_sections(schedule, noise_input, sampling, 1e-5)


FLAX = LayerNames({n: (n, SAME) for n in ('kernel', 'scale', 'bias')}, '/')
# Query, key and value are separate there; our network has one layer, in which
# they alternate.
QKV = 'NIN_0', 'NIN_1', 'NIN_2'
FUSED = 'NIN_0..2'  # our name for the three as one layer


def _classes(style):
  # {class: the layers within it}, for classes of several layers.
  dot = style.separator
  nin = LayerNames({'kernel': ('W', SAME), 'bias': ('b', SAME)}, dot)
  # score_sde's Conv2d, which follows a filter.
  filtered = (
    style if style is TORCH else LayerNames(style.leaves | {'kernel': ('weight', SAME)}, dot)
  )
  return {
    'GaussianFourierProjection': LayerNames({'frequencies': ('W', SAME)}, dot),
    'Downsample': (Layer('', 'Conv2d_0', filtered),),
    'ResnetBlockBigGANpp': names.resnet_block(
      'GroupNorm_0 Conv_0 Dense_0 GroupNorm_1 Conv_1 Conv_2', style
    ),
    'AttnBlockpp': (
      Layer('norm', 'GroupNorm_0', style),
      *names.layers('qkv proj_out', f'{FUSED} NIN_3', nin),
    ),
  }


def layers_of(network: DDPMpp, shapes: names.Params, style: LayerNames) -> Iterator[Layer]:
  """Yields the layers that `shapes` has, with q, k and v as one, FUSED.

  They are numbered in the order of the calls: in PyTorch all together, in
  legacy Flax each class separately.
  """
  classes, dot = _classes(style), style.separator
  seen: Counter[str] = Counter()
  for kind, ours in _order(network):
    if ours not in shapes:
      continue
    name = 'all_modules' if style is TORCH else kind
    theirs = f'{name}{dot if style is TORCH else "_"}{seen[name]}'
    seen[name] += 1
    yield from names.within(ours, theirs, classes.get(kind, style))


def _order(network: DDPMpp) -> Iterator[tuple[str, str]]:
  # (their class, our name) in the order in which both call them.
  yield 'GaussianFourierProjection', 'noise_fourier'
  yield 'Dense', 'noise_dense_1'
  yield 'Dense', 'noise_dense_2'
  yield 'Conv', 'conv_in'
  last, count = len(network.multipliers) - 1, network.num_blocks
  for level in range(last + 1):
    for i in range(count):
      yield 'ResnetBlockBigGANpp', f'down_{level}_{i}_block'
      yield 'AttnBlockpp', f'down_{level}_{i}_attention'
    yield 'ResnetBlockBigGANpp', f'down_{level}_downsample'
    yield 'Downsample', f'down_{level}_pyramid'
  yield 'ResnetBlockBigGANpp', 'middle_0_block'
  yield 'AttnBlockpp', 'middle_attention'
  yield 'ResnetBlockBigGANpp', 'middle_1_block'
  for level in reversed(range(last + 1)):
    for i in range(count + 1):
      yield 'ResnetBlockBigGANpp', f'up_{level}_{i}_block'
    yield 'AttnBlockpp', f'up_{level}_{count}_attention'
    yield 'ResnetBlockBigGANpp', f'up_{level}_upsample'
  yield 'GroupNorm', 'norm_out'
  yield 'Conv', 'conv_out'


def fuse(tensors: Tensors) -> dict[str, np.ndarray]:
  """Returns the tensors with query, key and value as one layer, FUSED.

  [in, out] each -> [in, 3 out], and [out] -> [3 out], where column 3 c + j is
  column c of the jth. If one of the three is missing, the others stay separate.
  """
  fused = dict(tensors)
  for name in tensors:
    parts = [name.replace(QKV[0], part) for part in QKV]
    if QKV[0] not in name or any(part not in tensors for part in parts):
      continue
    stacked = np.stack([fused.pop(part) for part in parts], axis=-1)
    shape = *stacked.shape[:-2], -1
    fused[name.replace(QKV[0], FUSED)] = stacked.reshape(shape)
  return fused

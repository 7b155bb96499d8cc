"""Weights of Song et al. 2021: DDPM++ and NCSN++, in JAX and PyTorch.

A checkpoint of either is read: Flax's msgpack, with the parameters of legacy
Flax, or PyTorch's .pth, whose averages are a list in the order of the state
dict. Their network has query, key and value apart; ours has one layer, in which
they alternate. Networks of the VE SDE are made ones of eps (`ve.as_eps`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  TORCH_CONV,
  TORCH_LINEAR,
  TORCH_NORM,
  TORCH_POINTWISE,
  Kind,
  Layer,
  entries,
  within,
)
from diffusion_jax.interop.names import (
  SAME,
  Entry,
  Imported,
  Rule,
  read,
)
from diffusion_jax.interop.options import several, with_options
from diffusion_jax.interop.ve import as_eps
from diffusion_jax.networks.ddpmpp import DDPMpp


class Options(NamedTuple):
  """Fields of their configs, by their names, and `ema`: the averages."""

  sde: str = 'vpsde'
  continuous: bool = True
  image_size: int = 32
  nf: int = 128
  ch_mult: tuple[int, ...] = (1, 2, 2, 2)
  num_res_blocks: int = 4
  attn_resolutions: tuple[int, ...] = (16,)
  dropout: float = 0.1
  beta_min: float = 0.1
  beta_max: float = 20.0
  sigma_min: float = 0.01
  sigma_max: float = 50.0
  name: str = 'ncsnpp'
  fir: bool = False
  fir_kernel: tuple[int, ...] = (1, 3, 3, 1)
  progressive: str = 'none'
  progressive_input: str = 'none'
  embedding_type: str = 'positional'
  resblock_type: str = 'biggan'
  scale_by_sigma: bool = False
  ema: bool = True


# The options of which our networks and schedules have some values alone.
ONLY = {
  'sde': ('vpsde', 'subvpsde', 'vesde'),
  'name': ('ncsnpp',),
  'progressive': ('none',),
  'progressive_input': ('none', 'residual'),
  'resblock_type': ('biggan',),
}
# Options that go together, with the VE SDE and without.
TOGETHER = {
  True: {
    'continuous': True,
    'embedding_type': 'fourier',
    'scale_by_sigma': True,
  },
  False: {'embedding_type': 'positional', 'scale_by_sigma': False},
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


class Style(NamedTuple):
  """How a framework stores the layers of a block, and joins names."""

  dot: str
  conv: Kind
  dense: Kind
  norm: Kind
  pointwise: Kind
  nin: Kind
  filtered: Kind  # their Conv2d, which has a filter before it


def _nin(dot):
  return Kind({'kernel': ('W', SAME), 'bias': ('b', SAME)}, dot)


def _flax(kernel):
  return Kind({'kernel': ('kernel', kernel), 'bias': ('bias', SAME)}, '/')


TORCH = Style(
  '.',
  TORCH_CONV,
  TORCH_LINEAR,
  TORCH_NORM,
  TORCH_POINTWISE,
  _nin('.'),
  TORCH_CONV,
)
# A 1x1 convolution is [1, 1, in, out].
_POINTWISE = Rule(lambda x: x.reshape(x.shape[2:]), lambda x: x[None, None])
FLAX = Style(
  '/',
  _flax(SAME),
  _flax(SAME),
  Kind({'scale': ('scale', SAME), 'bias': ('bias', SAME)}, '/'),
  _flax(_POINTWISE),
  _nin('/'),
  Kind({'kernel': ('weight', SAME), 'bias': ('bias', SAME)}, '/'),
)

BLOCK, ATTENTION = 'ResnetBlockBigGANpp', 'AttnBlockpp'
FOURIER, HALVED = 'GaussianFourierProjection', 'Downsample'
FREQUENCIES = r'all_modules\.\d+\.W'
QKV = 'NIN_0', 'NIN_1', 'NIN_2'
FUSED = 'NIN_0..2'  # the three as one layer, under a name of ours


def load(path: str | Path, model: str = '', **options: Any) -> Imported:
  """Returns the network of a checkpoint, .pth or Flax's msgpack.

  model: a name of MODELS, by default that of the folder (the last two parts of
  its path). options: those of `Options`, in place of the model's. Raises
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
  network, fields = make_network(chosen)
  shapes = parameter_shapes(network, chosen)
  params = read(table(network, shapes, style), fuse(variables), shapes)
  if chosen.sde == 'vesde':
    params = as_eps(params)
  return Imported(network, params, fields)


def choose_options(model: str, **options: Any) -> Options:
  """Returns the options of a name of MODELS, with `options` in their place."""
  if model not in MODELS:
    raise ValueError(
      f'the model {model!r} is not one of {", ".join(MODELS)}: name the one '
      'whose config the training had'
    )
  options = several(options, 'ch_mult', 'attn_resolutions', 'fir_kernel')
  known = Options()._asdict() | MODELS[model]
  chosen = Options(**with_options(known, options, model))
  _refuse(model, chosen)
  return chosen


def _refuse(model, options):
  # Raises ValueError for what our networks and schedules do not have.
  together = TOGETHER[options.sde == 'vesde']
  allowed = ONLY | {name: (value,) for name, value in together.items()}
  if options.progressive_input == 'residual':
    allowed['fir'] = (True,)
  lacking = [
    f'{name}={getattr(options, name)!r}'
    for name, values in allowed.items()
    if getattr(options, name) not in values
  ]
  if lacking:
    raise ValueError(
      f'{model}: sde={options.sde!r} with {", ".join(lacking)} has no '
      'counterpart here (DDPM++ and NCSN++ of vp and subvp have, and NCSN++ of '
      've in continuous time)'
    )


def model_variables(
  tensors: Mapping[str, np.ndarray], ema: bool
) -> tuple[dict[str, np.ndarray], Style]:
  """Returns the parameters of the network by name, and how they are stored.

  Raises ValueError if there are none, or no averages of them.
  """
  found = _under(tensors, 'params_ema/' if ema else 'optimizer/target/')
  if not found and any(n.startswith('optimizer/target/') for n in tensors):
    raise ValueError('no averages, params_ema: ema=False takes the parameters')
  if found:
    return _under(found, 'params/') or found, FLAX
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
  # ema.shadow_params is a list in the order of the parameters that are trained:
  # random frequencies, all_modules.0.W, are none.
  frozen = {n: x for n, x in trained.items() if re.fullmatch(FREQUENCIES, n)}
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


def fuse(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors in which query, key and value are one layer, FUSED.

  [in, out] each -> [in, 3 out], and [out] -> [3 out], where column 3 c + j is
  column c of the jth. A layer of which one is missing is left as it is.
  """
  found = dict(tensors)
  for name in tensors:
    parts = [name.replace(QKV[0], part) for part in QKV]
    if QKV[0] not in name or any(part not in tensors for part in parts):
      continue
    alike = [np.asarray(found.pop(part)) for part in parts]
    stacked = np.stack(alike, axis=-1)
    found[name.replace(QKV[0], FUSED)] = stacked.reshape(
      *alike[0].shape[:-1], -1
    )
  return found


def split(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors with query, key and value apart: the inverse of `fuse`."""
  found = {}
  for name, x in tensors.items():
    if FUSED in name:
      for j, part in enumerate(QKV):
        found[name.replace(FUSED, part)] = np.ascontiguousarray(x[..., j::3])
    else:
      found[name] = x
  return found


def make_network(options: Options) -> tuple[DDPMpp, dict[str, Any]]:
  """Returns our network for the options, and the fields of a config with it."""
  size = options.image_size
  ours: dict[str, Any] = {
    'channels': options.nf,
    'multipliers': tuple(options.ch_mult),
    'num_blocks': options.num_res_blocks,
    'attention_resolutions': tuple(options.attn_resolutions),
    'dropout': options.dropout,
  }
  if options.embedding_type == 'fourier':
    ours['noise_embedding'] = 'fourier'
  if options.fir:
    ours['resample_filter'] = tuple(options.fir_kernel)
  if options.progressive_input == 'residual':
    ours['input_pyramid'] = True
  fields = {f'network.{name}': value for name, value in ours.items()}
  fields |= {
    'network.name': 'ddpmpp',
    'data.image_shape': (size, size, 3),
    'objective.parametrization': 'eps',
    'objective.weight': 'snr',
    'sampling.num_steps': 1000,
    'sampling.clip': False,
  }
  return DDPMpp(**ours), fields | _schedule_fields(options)


def _schedule_fields(options):
  if options.sde == 'vpsde' and not options.continuous:
    return {
      'schedule.name': 'linear',
      'schedule.num_steps': 1000,
      'schedule.start': options.beta_min / 1000,
      'schedule.end': options.beta_max / 1000,
      'conditioning.noise_input': 'step',
      'sampling.sampler': 'ancestral',
    }
  if options.sde == 'vesde':  # of images in [-1, 1], with twice the noise
    return {
      'schedule.name': 'geometric_ve',
      'schedule.sigma_min': 2.0 * options.sigma_min,
      'schedule.sigma_max': 2.0 * options.sigma_max,
      'conditioning.noise_input': 'log_sigma',
      'objective.times': 'uniform',
      'objective.t_min': 1e-5,
      'sampling.sampler': 'reverse_diffusion',
      'sampling.corrector_steps': 1,
    }
  return {
    'schedule.name': 'linear_vp' if options.sde == 'vpsde' else 'sub_vp',
    'schedule.beta_min': options.beta_min,
    'schedule.beta_max': options.beta_max,
    'conditioning.noise_input': 'time',
    'conditioning.time_scale': 999.0,
    'objective.times': 'uniform',
    'objective.t_min': 1e-5,
    'sampling.sampler': 'euler_maruyama',
  }


def parameter_shapes(network: DDPMpp, options: Options) -> Any:
  """Returns the shapes of the parameters of our network."""
  x = jnp.zeros((1, options.image_size, options.image_size, 3))
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), x, jnp.zeros(1))['params']
  )


def table(network: DDPMpp, shapes: Any, style: Style) -> list[Entry]:
  """Returns the names of the parameters in a checkpoint, with FUSED layers."""
  made = [(kind, ours) for kind, ours in _order(network) if ours in shapes]
  names = _torch_names(made) if style is TORCH else _flax_names(made)
  layers: list[Layer] = []
  for (kind, ours), theirs in zip(made, names, strict=True):
    inner = _inner(style).get(kind)
    if inner is not None:
      layers += within(ours, theirs, inner)
    elif kind == HALVED:
      conv = f'{theirs}{style.dot}Conv2d_0'
      layers.append(Layer(ours, conv, style.filtered))
    else:
      layers.append(Layer(ours, theirs, _flat(style)[kind]))
  return entries(layers, shapes)


def _flat(style):
  return {
    FOURIER: Kind({'frequencies': ('W', SAME)}, style.dot),
    'Conv': style.conv,
    'Dense': style.dense,
    'GroupNorm': style.norm,
  }


def _inner(style):
  block = (
    Layer('norm_1', 'GroupNorm_0', style.norm),
    Layer('conv_1', 'Conv_0', style.conv),
    Layer('embedding_proj', 'Dense_0', style.dense),
    Layer('norm_2', 'GroupNorm_1', style.norm),
    Layer('conv_2', 'Conv_1', style.conv),
    Layer('shortcut', 'Conv_2', style.pointwise),
  )
  attention = (
    Layer('norm', 'GroupNorm_0', style.norm),
    Layer('qkv', FUSED, style.nin),
    Layer('proj_out', 'NIN_3', style.nin),
  )
  return {BLOCK: block, ATTENTION: attention}


def _order(network: DDPMpp) -> Iterator[tuple[str, str]]:
  # (class there, name of ours) in the order in which both call them.
  yield FOURIER, 'noise_fourier'
  yield 'Dense', 'noise_dense_1'
  yield 'Dense', 'noise_dense_2'
  yield 'Conv', 'conv_in'
  last, count = len(network.multipliers) - 1, network.num_blocks
  for level in range(last + 1):
    for i in range(count):
      yield BLOCK, f'down_{level}_{i}_block'
      yield ATTENTION, f'down_{level}_{i}_attention'
    yield BLOCK, f'down_{level}_downsample'
    yield HALVED, f'down_{level}_pyramid'
  yield BLOCK, 'middle_0_block'
  yield ATTENTION, 'middle_attention'
  yield BLOCK, 'middle_1_block'
  for level in reversed(range(last + 1)):
    for i in range(count + 1):
      yield BLOCK, f'up_{level}_{i}_block'
    yield ATTENTION, f'up_{level}_{count}_attention'
    yield BLOCK, f'up_{level}_upsample'
  yield 'GroupNorm', 'norm_out'
  yield 'Conv', 'conv_out'


def _torch_names(made: Iterable[tuple[str, str]]) -> list[str]:
  return [f'all_modules.{n}' for n, _ in enumerate(made)]


def _flax_names(made: Iterable[tuple[str, str]]) -> list[str]:
  seen: Counter[str] = Counter()
  names = []
  for kind, _ in made:
    names.append(f'{kind}_{seen[kind]}')
    seen[kind] += 1
  return names

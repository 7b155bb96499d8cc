"""Weights of improved-diffusion and guided-diffusion (OpenAI).

Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021: their U-Nets, up-samplers and
noisy classifiers, from the .pt files of their releases or training scripts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  TORCH_CONV,
  TORCH_CONV1D,
  TORCH_EMBEDDING,
  TORCH_LINEAR,
  TORCH_NORM,
  TORCH_POINTWISE,
  Kind,
  Layer,
  entries,
  within,
)
from diffusion_jax.interop.names import LINEAR, Entry, Imported, read
from diffusion_jax.interop.options import several, with_options
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.unet import UNet


class Flags(NamedTuple):
  """The flags of the projects' scripts, by their names and defaults there.

  The defaults are guided-diffusion's; 'improved' in MODELS has those of
  improved-diffusion. `classifier` says that the network is a classifier, which
  has the flags classifier_*. large_size and small_size make it an up-sampler.
  """

  image_size: int = 64
  large_size: int = 0
  small_size: int = 0
  num_channels: int = 128
  num_res_blocks: int = 2
  channel_mult: tuple[float, ...] = ()
  num_heads: int = 4
  num_head_channels: int = -1
  num_heads_upsample: int = -1
  attention_resolutions: tuple[int, ...] = (16, 8)
  dropout: float = 0.0
  class_cond: bool = False
  learn_sigma: bool = False
  sigma_small: bool = False
  use_scale_shift_norm: bool = True
  resblock_updown: bool = False
  use_new_attention_order: bool = False
  diffusion_steps: int = 1000
  noise_schedule: str = 'linear'
  use_kl: bool = False
  predict_xstart: bool = False
  rescale_timesteps: bool = False
  rescale_learned_sigmas: bool = False
  classifier: bool = False
  classifier_width: int = 128
  classifier_depth: int = 2
  classifier_attention_resolutions: tuple[int, ...] = (32, 16, 8)
  classifier_use_scale_shift_norm: bool = True
  classifier_resblock_updown: bool = True
  classifier_pool: str = 'attention'


LISTS = (
  'channel_mult',
  'attention_resolutions',
  'classifier_attention_resolutions',
)

# channel_mult by the size of the image, where the flag is empty.
MULTIPLIERS = {
  32: (1, 2, 2, 2),
  64: (1, 2, 3, 4),
  128: (1, 1, 2, 3, 4),
  256: (1, 1, 2, 2, 4, 4),
  512: (0.5, 1, 1, 2, 2, 4, 4),
}
UPSAMPLER_MULTIPLIERS = MULTIPLIERS | {512: (1, 1, 2, 2, 4, 4)}

_IMPROVED = {'rescale_timesteps': True, 'rescale_learned_sigmas': True}
_NOT_RESCALED = {'rescale_timesteps': False, 'rescale_learned_sigmas': False}
_COSINE = _IMPROVED | {
  'num_res_blocks': 3,
  'learn_sigma': True,
  'diffusion_steps': 4000,
  'noise_schedule': 'cosine',
}
_CIFAR10 = _COSINE | {'image_size': 32, 'dropout': 0.3}
_BEDROOM = {
  'image_size': 256,
  'num_heads': 1,
  'learn_sigma': True,
  'use_scale_shift_norm': False,
  'attention_resolutions': (16,),
}
_GUIDED = {
  'attention_resolutions': (32, 16, 8),
  'class_cond': True,
  'learn_sigma': True,
  'num_channels': 256,
  'num_head_channels': 64,
  'resblock_updown': True,
}
_LSUN = _GUIDED | {'image_size': 256, 'class_cond': False, 'dropout': 0.1}
_CLASSIFIER = {'classifier': True}

# The flags of the published checkpoints, by the name of their file, and, last,
# those that each project takes if none is given.
MODELS: dict[str, dict[str, Any]] = {
  'cifar10_uncond_50M_500K': _CIFAR10,
  'cifar10_uncond_vlb_50M_500K': _CIFAR10 | {'use_kl': True},
  'imagenet64_uncond_100M_1500K': _COSINE,
  'imagenet64_uncond_vlb_100M_1500K': _COSINE | {'use_kl': True},
  'imagenet64_cond_270M_250K': _COSINE
  | _NOT_RESCALED
  | {'num_channels': 192, 'class_cond': True},
  'upsample_cond_500K': {
    'large_size': 256,
    'small_size': 64,
    'num_channels': 192,
    'learn_sigma': True,
    'class_cond': True,
    'diffusion_steps': 4000,
  },
  'lsun_uncond_100M_1200K_bs128': _BEDROOM,
  'lsun_uncond_100M_2400K_bs64': _BEDROOM,
  '64x64_diffusion': _GUIDED
  | {
    'image_size': 64,
    'num_channels': 192,
    'num_res_blocks': 3,
    'dropout': 0.1,
    'noise_schedule': 'cosine',
    'use_new_attention_order': True,
  },
  '128x128_diffusion': _GUIDED
  | {'image_size': 128, 'num_heads': 4, 'num_head_channels': -1},
  '256x256_diffusion': _GUIDED | {'image_size': 256},
  '256x256_diffusion_uncond': _GUIDED
  | {'image_size': 256, 'class_cond': False},
  '512x512_diffusion': _GUIDED | {'image_size': 512},
  '64_256_upsampler': _GUIDED
  | {
    'large_size': 256,
    'small_size': 64,
    'num_channels': 192,
    'num_head_channels': -1,
  },
  '128_512_upsampler': _GUIDED
  | {
    'large_size': 512,
    'small_size': 128,
    'num_channels': 192,
    'attention_resolutions': (32, 16),
  },
  'lsun_bedroom': _LSUN,
  'lsun_cat': _LSUN,
  'lsun_horse': _LSUN,
  'lsun_horse_nodropout': _LSUN | {'dropout': 0.0},
  '64x64_classifier': _CLASSIFIER | {'image_size': 64, 'classifier_depth': 4},
  '128x128_classifier': _CLASSIFIER | {'image_size': 128},
  '256x256_classifier': _CLASSIFIER | {'image_size': 256},
  '512x512_classifier': _CLASSIFIER | {'image_size': 512},
  'guided': {},
  'improved': _IMPROVED,
  'classifier': _CLASSIFIER,
}

# Of their ResBlock.
BLOCK = (
  Layer('norm_1', 'in_layers.0', TORCH_NORM),
  Layer('conv_1', 'in_layers.2', TORCH_CONV),
  Layer('embedding_proj', 'emb_layers.1', TORCH_LINEAR),
  Layer('norm_2', 'out_layers.0', TORCH_NORM),
  Layer('conv_2', 'out_layers.3', TORCH_CONV),
  Layer('shortcut', 'skip_connection', TORCH_POINTWISE),
)
# Of their AttentionBlock.
ATTENTION = (
  Layer('norm', 'norm', TORCH_NORM),
  Layer('qkv', 'qkv', TORCH_CONV1D),
  Layer('proj_out', 'proj_out', TORCH_CONV1D),
)
# positional_embedding [channels, tokens] of their AttentionPool2d
PLACES = Kind({'places': ('positional_embedding', LINEAR)})


def load(path: str | Path, model: str = '', **flags: Any) -> Imported:
  """Returns the network of a .pt file (or .safetensors, with the same names).

  model: a name of MODELS, the stem of the file's name by default. flags: those
  of the project's scripts, as in `Flags`, in place of the model's; lists may be
  texts, '32,16,8'. Raises
  ValueError for an unknown model or flag, an option that our networks do not
  have, and tensors that do not fit.
  """
  tensors = read_tensors(path)
  return from_tensors(tensors, model or Path(path).stem, **flags)


def from_tensors(
  tensors: Mapping[str, np.ndarray], model: str, **flags: Any
) -> Imported:
  """Returns the network of a state dict; the arguments are those of `load`."""
  chosen = choose_flags(model, **flags)
  classes = _num_classes(tensors, chosen)
  network, fields = make_network(chosen, classes)
  shapes = parameter_shapes(network, chosen)
  params = read(table(network, shapes), tensors, shapes)
  return Imported(network, params, fields, tuple(_notes(chosen)))


def choose_flags(model: str, **flags: Any) -> Flags:
  """Returns the flags of a name of MODELS, with `flags` in their place."""
  if model not in MODELS:
    raise ValueError(
      f'the model {model!r} is not one of {", ".join(MODELS)}: name the '
      "published file, or 'guided', 'improved' or 'classifier' with the flags "
      'of the training'
    )
  flags = several(flags, *LISTS)
  known = Flags()._asdict() | MODELS[model]
  chosen = Flags(**with_options(known, flags, model))
  _refuse(chosen)
  return chosen


def _refuse(flags):
  # Raises ValueError for what our networks and schedules do not have.
  refused = {
    'num_heads_upsample': flags.num_heads_upsample not in (-1, flags.num_heads),
    'classifier_pool': flags.classifier_pool != 'attention',
    'noise_schedule': flags.noise_schedule not in ('linear', 'cosine'),
  }
  for name, refuse in refused.items():
    if refuse:
      value = getattr(flags, name)
      raise ValueError(f'the flag {name}={value!r} has no counterpart here')
  if bool(flags.large_size) != bool(flags.small_size):
    raise ValueError('an up-sampler has both flags large_size and small_size')
  if flags.large_size and flags.large_size % flags.small_size:
    raise ValueError(
      f'large_size={flags.large_size} is no multiple of small_size='
      f'{flags.small_size}'
    )


def _num_classes(tensors, flags):
  # Their scripts know 1000 classes; other numbers come from forks.
  if flags.classifier:
    name = 'out.2.c_proj.weight'
  elif flags.class_cond:
    name = 'label_emb.weight'
  else:
    return 0
  if name not in tensors:
    why = 'a classifier' if flags.classifier else 'class_cond=True'
    raise ValueError(f'no tensor {name}, which {why} needs: other flags?')
  return len(tensors[name])


def _multipliers(flags):
  if flags.channel_mult:
    return tuple(flags.channel_mult)
  known = UPSAMPLER_MULTIPLIERS if flags.large_size else MULTIPLIERS
  size = image_size(flags)
  if size not in known:
    raise ValueError(
      f'image_size={size}: give channel_mult, which has a default for '
      f'{", ".join(map(str, known))} only'
    )
  return known[size]


def image_size(flags: Flags) -> int:
  """Returns the height of the images that the network takes."""
  return flags.large_size or flags.image_size


def make_network(flags: Flags, num_classes: int) -> tuple[Any, dict[str, Any]]:
  """Returns our network for the flags, and the fields of a config with it."""
  size = image_size(flags)
  fields: dict[str, Any] = {'data.image_shape': (size, size, 3)}
  if num_classes:
    fields['data.num_classes'] = num_classes
  options = _options(flags)
  facts: dict[str, Any] = {'num_classes': num_classes}
  if flags.classifier:
    fields |= {'network.name': 'classifier', 'objective.name': 'classifier'}
    network = NoisyClassifier(**options, **facts)
  else:
    fields |= {'network.name': 'unet', 'conditioning.labels': bool(num_classes)}
    fields |= _diffusion_fields(flags)
    facts |= {
      'out_channels': 6 if flags.learn_sigma else 3,
      'image_channels': 3 if flags.large_size else 0,
    }
    network = UNet(**options, **facts)
  fields |= {f'network.{name}': value for name, value in options.items()}
  return network, fields | _schedule_fields(flags)


def _options(flags):
  # The fields that UNet and NoisyClassifier share.
  multipliers = _multipliers(flags)
  options: dict[str, Any] = {
    'multipliers': multipliers,
    'noise_embedding': 'openai',
    'downsample_padding': 'symmetric',
    'qkv': 'new' if flags.use_new_attention_order else 'legacy',
    'norm_eps': 1e-5,
    'initializer': 'torch',
  }
  if flags.classifier:
    heights = flags.classifier_attention_resolutions
    options |= {
      'channels': flags.classifier_width,
      'num_blocks': flags.classifier_depth,
      'scale_shift': flags.classifier_use_scale_shift_norm,
      'resblock_updown': flags.classifier_resblock_updown,
      # their EncoderUNetModel has no flag for it
      'head_channels': 64,
    }
  else:
    heights = flags.attention_resolutions
    options |= {
      'channels': flags.num_channels,
      'num_blocks': flags.num_res_blocks,
      'scale_shift': flags.use_scale_shift_norm,
      'resblock_updown': flags.resblock_updown,
      'dropout': flags.dropout,
    }
    if flags.num_head_channels == -1:
      options['num_heads'] = flags.num_heads
    else:
      options['head_channels'] = flags.num_head_channels
  stem = int(options['channels'] * multipliers[0])
  return options | {
    'attention_resolutions': tuple(heights),
    'stem_channels': stem,
  }


def _bound_fields(flags):
  if flags.use_kl:
    return {'objective.name': 'vlb', 'objective.times': 'loss_aware'}
  # Our bound is T times its term at a step. Theirs is that times 1 / 1000 if it
  # is rescaled, and else the plain term.
  scale = 1000 if flags.rescale_learned_sigmas else flags.diffusion_steps
  return {'objective.name': 'hybrid', 'objective.vlb_weight': 1.0 / scale}


def _schedule_fields(flags):
  # Their linear betas are those of 1000 steps times 1000 / T.
  name, steps = flags.noise_schedule, flags.diffusion_steps
  if name == 'linear' and steps != 1000:
    name = 'rescaled_linear'
  step = 'rescaled_step' if flags.rescale_timesteps else 'step'
  return {
    'schedule.name': name,
    'schedule.num_steps': steps,
    'conditioning.noise_input': step,
  }


def _diffusion_fields(flags):
  steps = flags.diffusion_steps
  variance = 'fixed_small' if flags.sigma_small else 'fixed_large'
  fields: dict[str, Any] = {
    'objective.parametrization': 'x0' if flags.predict_xstart else 'eps',
    'network.learned_variance': flags.learn_sigma,
    'sampling.sampler': 'ancestral',
    'sampling.num_steps': steps,
    'sampling.variance': 'learned' if flags.learn_sigma else variance,
  }
  if flags.learn_sigma:
    fields |= _bound_fields(flags)
  if flags.large_size:
    fields['conditioning.image'] = 'superres'
    fields['conditioning.image_factor'] = flags.large_size // flags.small_size
  return fields


def _notes(flags):
  if flags.large_size:
    yield (
      'the up-sampler was trained with small images enlarged by bilinear '
      'interpolation, but conditioning.image=superres repeats their pixels: in '
      "code, give it cond['image'] = interop.openai.enlarge(small, size)"
    )


def enlarge(low_res: jax.Array, size: int) -> jax.Array:
  """Returns images as the up-samplers see them: [B, h, h, C] -> [B, H, H, C].

  Bilinear interpolation between the centres of the pixels, H = size.
  """
  shape = (len(low_res), size, size, low_res.shape[-1])
  return jax.image.resize(low_res, shape, 'bilinear', antialias=False)


def parameter_shapes(network: UNet | NoisyClassifier, flags: Flags) -> Any:
  """Returns the shapes of the parameters of our network."""
  size = image_size(flags)
  x = jnp.zeros((1, size, size, 3))
  labels = isinstance(network, UNet) and network.num_classes > 0
  cond = {'label': jnp.zeros(1, jnp.int32)} if labels else {}

  def init():
    return network.init(jax.random.key(0), x, jnp.zeros(1), cond)['params']

  return jax.eval_shape(init)


def table(network: UNet | NoisyClassifier, shapes: Any) -> list[Entry]:
  """Returns the names of the parameters in a state dict of OpenAI's."""
  layers = [*_encoder(network), *_ends(network)]
  if isinstance(network, UNet):
    layers += _decoder(network, shapes)
  return entries(layers, shapes)


def _ends(network: UNet | NoisyClassifier) -> Iterator[Layer]:
  yield Layer('noise_dense_1', 'time_embed.0', TORCH_LINEAR)
  yield Layer('noise_dense_2', 'time_embed.2', TORCH_LINEAR)
  yield Layer('conv_in', 'input_blocks.0.0', TORCH_CONV)
  yield Layer('norm_out', 'out.0', TORCH_NORM)
  if isinstance(network, UNet):
    yield Layer('label_embedding/table', 'label_emb', TORCH_EMBEDDING)
    yield Layer('conv_out', 'out.2', TORCH_CONV)
  else:
    yield Layer('pool', 'out.2', PLACES)
    yield Layer('pool/qkv', 'out.2.qkv_proj', TORCH_CONV1D)
    yield Layer('pool/proj_out', 'out.2.c_proj', TORCH_CONV1D)


def _encoder(network: UNet | NoisyClassifier) -> Iterator[Layer]:
  last = len(network.multipliers) - 1
  n = 1
  for level in range(last + 1):
    for i in range(network.num_blocks):
      yield from _block(f'down_{level}_{i}', f'input_blocks.{n}')
      n += 1
    if level < last:
      name, place = f'down_{level}_downsample', f'input_blocks.{n}.0'
      yield from _resampling(network, name, place, f'{place}.op')
      n += 1
  yield from within('middle_0_block', 'middle_block.0', BLOCK)
  yield from within('middle_attention', 'middle_block.1', ATTENTION)
  yield from within('middle_1_block', 'middle_block.2', BLOCK)


def _decoder(network: UNet, shapes: Any) -> Iterator[Layer]:
  n = 0
  for level in reversed(range(len(network.multipliers))):
    for i in range(network.num_blocks + 1):
      yield from _block(f'up_{level}_{i}', f'output_blocks.{n}')
      if level and i == network.num_blocks:
        attends = f'up_{level}_{i}_attention' in shapes
        place = f'output_blocks.{n}.{2 if attends else 1}'
        name = f'up_{level}_upsample'
        yield from _resampling(network, name, place, f'{place}.conv')
      n += 1


def _block(ours: str, theirs: str) -> Iterator[Layer]:
  yield from within(f'{ours}_block', f'{theirs}.0', BLOCK)
  yield from within(f'{ours}_attention', f'{theirs}.1', ATTENTION)


def _resampling(network, ours: str, block: str, conv: str) -> Iterator[Layer]:
  if network.resblock_updown:
    yield from within(ours, block, BLOCK)
  else:
    yield Layer(f'{ours}/conv', conv, TORCH_CONV)

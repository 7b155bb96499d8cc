"""Networks of diffusers as ours: options of config.json, and names of tensors.

UNet2DModel is our `UNet`, AutoencoderKL our `Autoencoder`. Options that ours do
not have are refused by their name and value.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from diffusion_jax.interop import names
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.unet import UNet

# The options of the classes with their defaults, which a config.json may lack.
UNET = {
  'sample_size': None,
  'in_channels': 3,
  'out_channels': 3,
  'center_input_sample': False,
  'time_embedding_type': 'positional',
  'time_embedding_dim': None,
  'freq_shift': 0,
  'flip_sin_to_cos': True,
  'down_block_types': ('DownBlock2D', *['AttnDownBlock2D'] * 3),
  'mid_block_type': 'UNetMidBlock2D',
  'up_block_types': (*['AttnUpBlock2D'] * 3, 'UpBlock2D'),
  'block_out_channels': (224, 448, 672, 896),
  'layers_per_block': 2,
  'mid_block_scale_factor': 1,
  'downsample_padding': 1,
  'downsample_type': 'conv',
  'upsample_type': 'conv',
  'dropout': 0.0,
  'act_fn': 'silu',
  'attention_head_dim': 8,
  'norm_num_groups': 32,
  'attn_norm_num_groups': None,
  'norm_eps': 1e-5,
  'resnet_time_scale_shift': 'default',
  'add_attention': True,
  'class_embed_type': None,
  'num_class_embeds': None,
  'num_train_timesteps': None,
}
AUTOENCODER = {
  'in_channels': 3,
  'out_channels': 3,
  'down_block_types': ('DownEncoderBlock2D',),
  'up_block_types': ('UpDecoderBlock2D',),
  'block_out_channels': (64,),
  'layers_per_block': 1,
  'act_fn': 'silu',
  'latent_channels': 4,
  'norm_num_groups': 32,
  'sample_size': 32,
  'scaling_factor': 0.18215,
  'shift_factor': None,
  'latents_mean': None,
  'latents_std': None,
  'force_upcast': True,
  'use_quant_conv': True,
  'use_post_quant_conv': True,
  'mid_block_add_attention': True,
}

# The values that ours can have, of options that are not translated.
_SILU = ('silu', 'swish')
_UNET_HAS = {
  'center_input_sample': (False, None),
  'time_embedding_type': ('positional',),
  'mid_block_type': ('UNetMidBlock2D',),
  'mid_block_scale_factor': (1, None),
  'act_fn': _SILU,
  'class_embed_type': (None,),
  'freq_shift': (0, 1),
  'downsample_padding': (0, 1),
  'downsample_type': ('conv', 'resnet'),
  'upsample_type': ('conv', 'resnet'),
  'resnet_time_scale_shift': ('default', 'scale_shift'),
}
_AUTOENCODER_HAS = {
  'act_fn': _SILU,
  'shift_factor': (None, 0.0),
  'latents_mean': (None,),
  'latents_std': (None,),
}
_DOWN = 'DownBlock2D', 'AttnDownBlock2D', 'ResnetDownsampleBlock2D'
_UP = 'UpBlock2D', 'AttnUpBlock2D', 'ResnetUpsampleBlock2D'
_LIMITS = (-30.0, 20.0)  # of the log-variances of AutoencoderKL
_PADDINGS = ('same', 'symmetric')  # downsample_padding 0, 1


def unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of `UNet` for the config.json of a UNet2DModel."""
  c = complete(config, UNET, _UNET_HAS, 'UNet2DModel')
  height, _ = sides(c['sample_size'], 'UNet2DModel')
  widths = c['block_out_channels']
  _same_length(c)
  refuse(
    'UNet2DModel',
    c,
    time_embedding_dim=c['time_embedding_dim'] in (None, 4 * widths[0]),
    attn_norm_num_groups=c['attn_norm_num_groups']
    in (None, c['norm_num_groups']),
    out_channels=c['out_channels'] in (c['in_channels'], 2 * c['in_channels']),
  )
  last = len(widths) - 1
  scale_shift = c['resnet_time_scale_shift'] == 'scale_shift'
  middle = 'norm'
  if scale_shift and c['attn_norm_num_groups'] is None:
    middle = 'plain'
  return {
    'channels': widths[0],
    'multipliers': multipliers(widths),
    'num_blocks': c['layers_per_block'],
    'attention_resolutions': tuple(
      height // 2**level for level in _attention_levels(c)
    ),
    'dropout': float(c['dropout']),
    'out_channels': c['out_channels'],
    'num_groups': c['norm_num_groups'],
    'num_classes': c['num_class_embeds'] or 0,
    'noise_embedding': 'ho' if c['freq_shift'] else 'openai',
    'scale_shift': scale_shift,
    'resblock_updown': bool(last) and _resnet_updown(c),
    'downsample_padding': _PADDINGS[c['downsample_padding']],
    'num_heads': 1,
    'head_channels': c['attention_head_dim'],
    'norm_eps': float(c['norm_eps']),
    'middle_attention': middle if c['add_attention'] else 'none',
  }


def unet_config(network: UNet, image_shape: tuple) -> dict[str, Any]:
  """Returns the config.json of a UNet2DModel; ValueError for what it lacks."""
  height, width, channels = image_shape
  refuse(
    'our U-Net, which UNet2DModel cannot be',
    vars(network),
    text_width=not network.text_width,
    image_channels=not network.image_channels,
    self_conditioning=not network.self_conditioning,
    stem_channels=network.stem_channels in (None, network.channels),
    qkv=network.qkv == 'separate',
    middle_attention=network.middle_attention != 'plain' or network.scale_shift,
  )
  widths = [int(network.channels * m) for m in network.multipliers]
  last = len(widths) - 1
  heights = [height // 2**level for level in range(last + 1)]
  attended = [h in network.attention_resolutions for h in heights]
  middle = network.middle_attention or 'norm'

  def kind(level, known, end):  # at its end the resolution stays
    if attended[level]:
      return known[1]
    return known[2 if network.resblock_updown and level != end else 0]

  levels = range(last + 1)
  resample = 'resnet' if network.resblock_updown else 'conv'
  return UNET | {
    '_class_name': 'UNet2DModel',
    'sample_size': height if height == width else [height, width],
    'in_channels': channels,
    'out_channels': network.out_channels,
    'freq_shift': int(network.noise_embedding == 'ho'),
    'flip_sin_to_cos': network.noise_embedding == 'openai',
    'down_block_types': [kind(n, _DOWN, last) for n in levels],
    'up_block_types': [kind(n, _UP, 0) for n in reversed(levels)],
    'block_out_channels': widths,
    'layers_per_block': network.num_blocks,
    'downsample_padding': _PADDINGS.index(network.downsample_padding),
    'downsample_type': resample,
    'upsample_type': resample,
    'dropout': network.dropout,
    'attention_head_dim': _head_channels(network, widths, attended),
    'norm_num_groups': network.num_groups,
    'attn_norm_num_groups': network.num_groups
    if network.scale_shift and middle == 'norm'
    else None,
    'norm_eps': network.norm_eps,
    'resnet_time_scale_shift': 'scale_shift'
    if network.scale_shift
    else 'default',
    'add_attention': middle != 'none',
    'num_class_embeds': network.num_classes + network.null_class or None,
  }


def autoencoder_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of `Autoencoder` for those of an AutoencoderKL."""
  name = 'AutoencoderKL'
  c = complete(config, AUTOENCODER, _AUTOENCODER_HAS, name)
  _same_length(c)
  refuse(
    name,
    c,
    out_channels=c['out_channels'] == c['in_channels'],
    use_post_quant_conv=c['use_post_quant_conv'] == c['use_quant_conv'],
    down_block_types=set(c['down_block_types']) == {'DownEncoderBlock2D'},
    up_block_types=set(c['up_block_types']) == {'UpDecoderBlock2D'},
  )
  widths = c['block_out_channels']
  return {
    'image_size': sides(c['sample_size'], name),
    'out_channels': c['out_channels'],
    'latent_channels': c['latent_channels'],
    'channels': widths[0],
    'multipliers': multipliers(widths),
    'num_blocks': c['layers_per_block'],
    'decoder_blocks': c['layers_per_block'] + 1,
    'num_groups': c['norm_num_groups'],
    'middle_attention': 'norm' if c['mid_block_add_attention'] else 'none',
    'latent_convs': True if c['use_quant_conv'] else None,
    'log_variance_limits': _LIMITS,
  }


def autoencoder_config(network: Autoencoder, scale: float) -> dict[str, Any]:
  """Returns the config.json of an AutoencoderKL; ValueError as `unet_config`.

  scale: by which latents are multiplied.
  """
  blocks = network.num_blocks + 1
  limits = network.log_variance_limits
  refuse(
    'our autoencoder, which AutoencoderKL cannot be',
    vars(network),
    latent_dim=not network.latent_dim,
    attention_resolutions=not network.attention_resolutions,
    norm_eps=network.norm_eps == 1e-6,
    middle_attention=network.middle_attention in ('norm', 'none'),
    decoder_blocks=network.decoder_blocks == blocks,
    log_variance_limits=limits is not None and tuple(limits) == _LIMITS,
  )
  widths = [int(network.channels * m) for m in network.multipliers]
  height, width = network.image_size
  return AUTOENCODER | {
    '_class_name': 'AutoencoderKL',
    'in_channels': network.out_channels,
    'out_channels': network.out_channels,
    'down_block_types': ['DownEncoderBlock2D'] * len(widths),
    'up_block_types': ['UpDecoderBlock2D'] * len(widths),
    'block_out_channels': widths,
    'layers_per_block': network.num_blocks,
    'latent_channels': network.latent_channels,
    'norm_num_groups': network.num_groups,
    'sample_size': height if height == width else [height, width],
    'scaling_factor': scale,
    'use_quant_conv': bool(network.latent_convs),
    'use_post_quant_conv': bool(network.latent_convs),
    'mid_block_add_attention': network.middle_attention == 'norm',
  }


def multipliers(widths) -> tuple[float, ...]:
  """Returns the multipliers m with int(widths[0] m) = width."""
  found = []
  for width in widths:
    m = width / widths[0]
    if int(widths[0] * m) != width:  # rounded down
      m = (width + 0.5) / widths[0]
    found.append(int(m) if m == int(m) else m)
  return tuple(found)


def sides(size: Any, name: str) -> tuple[int, int]:
  """Returns (height, width) of a sample_size; ValueError for None."""
  if isinstance(size, int) and size > 0:
    return size, size
  if isinstance(size, list | tuple) and len(size) == 2:
    return int(size[0]), int(size[1])
  raise ValueError(
    f'{name}: sample_size={size!r} does not say the size of the images, which '
    'our network depends on: write it into config.json'
  )


# The table of names: of the parts of a parameter's path.
_MODULES = {
  'conv_in': 'conv_in',
  'noise_dense_1': 'time_embedding.linear_1',
  'noise_dense_2': 'time_embedding.linear_2',
  'label_embedding': 'class_embedding',
  'norm_out': 'conv_norm_out',
  'conv_out': 'conv_out',
  'encoder': 'encoder',
  'decoder': 'decoder',
  'encoder_conv': 'quant_conv',
  'decoder_conv': 'post_quant_conv',
  'middle_attention': 'mid_block.attentions.0',
  # of a residual block
  'norm_1': 'norm1',
  'conv_1': 'conv1',
  'embedding_proj': 'time_emb_proj',
  'norm_2': 'norm2',
  'conv_2': 'conv2',
  'shortcut': 'conv_shortcut',
  # of attention
  'norm': 'group_norm',
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_out': 'to_out.0',
  # of a change of resolution
  'conv': 'conv',
  # of the arrays themselves
  'table': '',
  'kernel': 'weight',
  'scale': 'weight',
  'embedding': 'weight',
  'bias': 'bias',
}
_LEVELS = (
  (r'(down|up)_(\d+)_(\d+)_block', '{0}_blocks.{1}.resnets.{2}'),
  (r'(down|up)_(\d+)_(\d+)_attention', '{0}_blocks.{1}.attentions.{2}'),
  (r'(down|up)_(\d+)_(down|up)sample', '{0}_blocks.{1}.{2}samplers.0'),
  (r'()middle_()(\d+)_block', 'mid_block.resnets.{2}'),
)
# attention of files of diffusers before 0.12
_LEGACY = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}


def entries(
  network: Any, shapes: Any, swap_waves: bool = False
) -> Iterator[names.Entry]:
  """Yields the row of each of our parameters.

  shapes: the tree of them. swap_waves: the other order of [sin, cos] than our
  sinusoids have.
  """
  last = len(network.multipliers) - 1
  flat: dict = dict(traverse_util.flatten_dict(shapes, sep='/'))
  for ours, leaf in flat.items():
    parts = ours.split('/')
    theirs = [_module(part, last, parts[0]) for part in parts]
    name = '.'.join(part for part in theirs if part)
    rule = _rule(parts, np.ndim(leaf))
    if swap_waves and ours == 'noise_dense_1/kernel':
      rule = names.Rule(
        lambda x: _swap_halves(x.T), lambda x: _swap_halves(x).T
      )
    yield names.Entry(ours, name, rule)


def write(network: Any, params: Any) -> dict[str, np.ndarray]:
  """Returns the tensors of a UNet2DModel or an AutoencoderKL."""
  return names.write(entries(network, params), params)


def modern(name: str) -> str:
  """Returns the name of a tensor in present versions of diffusers."""
  head, _, part = name.rpartition('.')
  stem, _, layer = head.rpartition('.')
  if '.attentions.' in name and layer in _LEGACY:
    return f'{stem}.{_LEGACY[layer]}.{part}'
  return name


def _module(part, last, top):
  if part in _MODULES:
    return _MODULES[part]
  for pattern, theirs in _LEVELS:
    match = re.fullmatch(pattern, part)
    if match:
      way, level, index = match.groups()
      if way == 'up':  # theirs begin at the lowest resolution
        level = last - int(level)
      elif top == 'encoder' and index == 'down':
        level = int(level) - 1  # theirs end a level, ours begin one
      return theirs.format(way, level, index)
  raise ValueError(f'our {part} is in no network of diffusers')


def _rule(parts, ndim):
  if parts[-1] != 'kernel':
    return names.SAME
  if ndim == 4:
    return names.CONV
  return names.CONV_1X1 if parts[-2] == 'shortcut' else names.LINEAR


def _swap_halves(x):
  half = len(x) // 2  # an odd number of features ends in a zero
  return np.concatenate([x[half : 2 * half], x[:half], x[2 * half :]])


def complete(config, defaults, has, name):
  """Returns the options of a class with its defaults.

  Raises ValueError for values of `has` that ours lack, and unknown options.
  """
  given = {n: x for n, x in config.items() if not n.startswith('_')}
  for option, value in given.items():
    if option not in defaults and value is not None:
      raise ValueError(f'{name}: {option}={value!r} is an option of no network')
  c = defaults | {n: x for n, x in given.items() if n in defaults}
  for option, known in has.items():
    if c[option] not in known:
      raise ValueError(
        f'{name}: {option}={c[option]!r} is not here, but '
        f'{" or ".join(map(repr, known))}'
      )
  return c


def refuse(name, values, **fits):
  """Raises ValueError for the first option that does not fit, False."""
  for option, fine in fits.items():
    if not fine:
      raise ValueError(f'{name}: {option}={values[option]!r} is not here')


def _same_length(c):
  count = len(c['block_out_channels'])
  for option in ('down_block_types', 'up_block_types'):
    if len(c[option]) != count:
      raise ValueError(
        f'{option} has {len(c[option])} blocks, block_out_channels {count}'
      )


def _attention_levels(c):
  # The levels with attention, which are the same on both ways.
  for option, known in (('down_block_types', _DOWN), ('up_block_types', _UP)):
    for kind in c[option]:
      if kind not in known:
        raise ValueError(f'UNet2DModel: {option} has {kind}, which is not here')
  down = [i for i, kind in enumerate(c['down_block_types']) if 'Attn' in kind]
  up = [i for i, k in enumerate(reversed(c['up_block_types'])) if 'Attn' in k]
  if down != up:
    raise ValueError(
      f'UNet2DModel: up_block_types={list(c["up_block_types"])} has attention '
      'at other levels than down_block_types, which is not here'
    )
  return down


def _resnet_updown(c):
  # Whether residual blocks change the resolution, everywhere or nowhere.
  found = set()
  for option, way in (('down_block_types', 'down'), ('up_block_types', 'up')):
    for kind in c[option][:-1]:  # the last does not change it
      attends = 'Attn' in kind and c[f'{way}sample_type'] == 'resnet'
      found.add(attends or kind.startswith('Resnet'))
  if len(found) > 1:
    raise ValueError(
      f'UNet2DModel: down_block_types={list(c["down_block_types"])} and '
      f'up_block_types={list(c["up_block_types"])} change the resolution by '
      'residual blocks here and by convolutions there, which is not here'
    )
  return found == {True}


def _head_channels(network, widths, attended):
  # Channels of a head, which are the same everywhere; None: one head.
  if network.head_channels is not None or network.num_heads == 1:
    return network.head_channels
  found = {w for w, has in zip(widths, attended, strict=True) if has}
  if network.middle_attention != 'none':
    found.add(widths[-1])
  if len(found) > 1:
    raise ValueError(
      f'our U-Net, which UNet2DModel cannot be: num_heads={network.num_heads} '
      f'at widths of {sorted(found)}, where diffusers has channels per head'
    )
  return max(found, default=0) // network.num_heads or None

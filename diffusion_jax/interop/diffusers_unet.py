"""UNet2DModel of diffusers as our `UNet`, and back."""

from collections.abc import Sequence
from types import SimpleNamespace

from diffusion_jax.interop import diffusers_options as theirs, names, options
from diffusion_jax.interop.diffusers_options import ATTENTION, BLOCK, SILU
from diffusion_jax.interop.names import Layer, Params, Tensors
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.unet import UNet

CLASS = 'UNet2DModel'
# The options of the class with their defaults; config.json may omit some.
OPTIONS = options.of_text("""
  sample_size=None in_channels=3 out_channels=3 center_input_sample=False
  time_embedding_type=positional time_embedding_dim=None freq_shift=0 flip_sin_to_cos=True
  mid_block_type=UNetMidBlock2D
  block_out_channels=224,448,672,896 layers_per_block=2 mid_block_scale_factor=1
  downsample_padding=1 downsample_type=conv upsample_type=conv dropout=0.0 act_fn=silu
  attention_head_dim=8 norm_num_groups=32 attn_norm_num_groups=None norm_eps=1e-5
  resnet_time_scale_shift=default add_attention=True class_embed_type=None num_class_embeds=None
  num_train_timesteps=None
""") | {
  'down_block_types': ('DownBlock2D', *['AttnDownBlock2D'] * 3),
  'up_block_types': (*['AttnUpBlock2D'] * 3, 'UpBlock2D'),
}
# Fields of `UNet`, with the option for each.
FIELDS: options.OptionFields = {
  'num_blocks': 'layers_per_block',
  'dropout': 'dropout',
  'out_channels': 'out_channels',
  'num_groups': 'norm_num_groups',
  'norm_eps': 'norm_eps',
  'noise_embedding': ('freq_shift', {0: 'openai', 1: 'ho'}),
  'downsample_padding': ('downsample_padding', {0: 'same', 1: 'symmetric'}),
  'scale_shift': ('resnet_time_scale_shift', {'default': False, 'scale_shift': True}),
}
_DOWN = 'DownBlock2D', 'AttnDownBlock2D', 'ResnetDownsampleBlock2D'
_UP = 'UpBlock2D', 'AttnUpBlock2D', 'ResnetUpsampleBlock2D'

LAYERS = names.table(
  """
  noise_dense_2                 time_embedding.linear_2
  label_embedding/table         class_embedding
  conv_in                       conv_in
  down_{level}_{i}_block        down_blocks.{level}.resnets.{i}     block
  down_{level}_{i}_attention    down_blocks.{level}.attentions.{i}  attention
  down_{level}_downsample       down_blocks.{level}.downsamplers.0  block
  down_{level}_downsample/conv  down_blocks.{level}.downsamplers.0.conv
  middle_0_block                mid_block.resnets.0                 block
  middle_attention              mid_block.attentions.0              attention
  middle_1_block                mid_block.resnets.1                 block
  up_{level}_{i}_block          up_blocks.{back}.resnets.{i}        block
  up_{level}_{i}_attention      up_blocks.{back}.attentions.{i}     attention
  up_{level}_upsample           up_blocks.{back}.upsamplers.0       block
  up_{level}_upsample/conv      up_blocks.{back}.upsamplers.0.conv
  norm_out                      conv_norm_out
  conv_out                      conv_out
  """,
  block=BLOCK,
  attention=ATTENTION,
)


def layers_of(network: UNet, swapped: bool = False) -> list[Layer]:
  """Returns the layers with their names there.

  swapped: their sinusoids have the opposite order of ours, which is [sin, cos]
  for noise_embedding='ho' and [cos, sin] for 'openai'.
  """
  first = names.TORCH_SWAPPED if swapped else names.TORCH
  rows = LAYERS | {'noise_dense_1': ('time_embedding.linear_1', first)}
  return names.expand(rows, network.num_blocks, len(network.multipliers))


def write(network: UNet, params: Params, rule: names.NameRule | None = None) -> Tensors:
  """Returns the tensors of a UNet2DModel; rule: see `names.write`."""
  return names.write(names.entries(layers_of(network), params), params, rule)


def read_config(config: options.Options) -> tuple[UNet, dict, SimpleNamespace]:
  """Returns the network of a config.json, its fields, and all options."""
  c = theirs.complete(CLASS, config, OPTIONS, FIELDS, _allowed)
  height, _ = theirs.sides(c.sample_size, CLASS)
  middle = 'norm'
  if c.resnet_time_scale_shift == 'scale_shift':
    middle = 'plain' if c.attn_norm_num_groups is None else 'norm'
  fields = options.fields_of(c, FIELDS)
  out_channels = fields.pop('out_channels')
  fields |= {
    'channels': c.block_out_channels[0],
    'multipliers': theirs.multipliers(c.block_out_channels),
    'attention_resolutions': tuple(height // 2**level for level in _attended(c.down_block_types)),
    'dropout': float(c.dropout),
    'norm_eps': float(c.norm_eps),
    'resblock_updown': _updown(c) == {True},
    'num_heads': 1,
    'head_channels': c.attention_head_dim,
    'middle_attention': middle if c.add_attention else 'none',
  }
  inputs = Inputs(num_classes=c.num_class_embeds or 0)
  return UNet(**fields, out_channels=out_channels, inputs=inputs), fields, c


def _allowed(c):
  widths, kinds = c.block_out_channels, ('conv', 'resnet')
  alike = _attended(c.down_block_types) == _attended(c.up_block_types[::-1])
  reason = '' if alike else 'attention is at other levels on the way down'
  mixed = (
    'the resolution is changed by residual blocks at some levels and by convolutions at others'
  )
  return {
    'center_input_sample': (False, None),
    'time_embedding_type': ('positional',),
    'time_embedding_dim': (None, 4 * widths[0]),
    'mid_block_type': ('UNetMidBlock2D',),
    'mid_block_scale_factor': (1, None),
    'act_fn': SILU,
    'class_embed_type': (None,),
    'downsample_type': kinds,
    'upsample_type': kinds,
    'attn_norm_num_groups': (None, c.norm_num_groups),
    'out_channels': (c.in_channels, 2 * c.in_channels),
    'down_block_types': theirs.wrong_blocks(c.down_block_types, _DOWN, widths)
    or (mixed if len(_updown(c)) > 1 else ''),
    'up_block_types': theirs.wrong_blocks(c.up_block_types, _UP, widths) or reason,
  }


def _attended(kinds):
  return [level for level, kind in enumerate(kinds) if 'Attn' in kind]


def _updown(c):
  # Whether residual blocks change the resolution: {True}, {False}, or both.
  found = set()
  for kinds, way in ((c.down_block_types, 'down'), (c.up_block_types, 'up')):
    resnet = vars(c)[f'{way}sample_type'] == 'resnet'
    for kind in kinds[:-1]:  # the last does not change it
      found.add('Attn' in kind and resnet or kind.startswith('Resnet'))
  return found


def write_config(network: UNet, shape: Sequence[int]) -> options.Options:
  """Returns the config.json of a UNet2DModel for images of a shape.

  Raises ValueError for fields without a counterpart.
  """
  inputs, (height, width, channels) = network.inputs, shape
  widths = [int(network.channels * m) for m in network.multipliers]
  levels = range(len(widths))
  attended = [height // 2**n in network.attention_resolutions for n in levels]
  plain = network.middle_attention == 'plain' and not network.scale_shift
  options.check(
    'our U-Net',
    vars(network) | vars(inputs),
    {
      **theirs.NO_INPUTS,
      'stem_channels': (None, network.channels),
      'qkv': ('separate',),
      'middle_attention': 'it needs scale_shift' if plain else '',
    },
    f'in {CLASS}',
  )

  def kind(level, known, end):  # the last level keeps its resolution
    if attended[level]:
      return known[1]
    return known[2 if network.resblock_updown and level != end else 0]

  resample = 'resnet' if network.resblock_updown else 'conv'
  middle = network.middle_attention or 'norm'
  normed = network.scale_shift and middle == 'norm'
  return {**OPTIONS, **options.options_of(network, FIELDS)} | {
    '_class_name': CLASS,
    'sample_size': theirs.sample_size(height, width),
    'in_channels': channels,
    'flip_sin_to_cos': network.noise_embedding == 'openai',
    'down_block_types': [kind(n, _DOWN, len(widths) - 1) for n in levels],
    'up_block_types': [kind(n, _UP, 0) for n in reversed(levels)],
    'block_out_channels': widths,
    'downsample_type': resample,
    'upsample_type': resample,
    'attention_head_dim': _head_channels(network, widths, attended),
    'attn_norm_num_groups': network.num_groups if normed else None,
    'add_attention': middle != 'none',
    'num_class_embeds': inputs.num_classes + inputs.null_class or None,
  }


def _head_channels(network, widths, attended):
  # Channels of a head, which are the same everywhere; None: one head.
  if network.head_channels is not None or network.num_heads == 1:
    return network.head_channels
  used = {w for w, has in zip(widths, attended, strict=True) if has}
  if network.middle_attention != 'none':
    used.add(widths[-1])
  if len(used) > 1:
    reason = f'widths of {sorted(used)} would have other channels per head'
    options.check('our U-Net', vars(network), {'num_heads': reason}, f'in {CLASS}')
  return max(used, default=0) // network.num_heads or None

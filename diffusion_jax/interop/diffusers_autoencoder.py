"""AutoencoderKL of diffusers as our `Autoencoder`, and back."""

from diffusion_jax.autoencoders.networks import Autoencoder
from diffusion_jax.interop import diffusers_options as theirs, names, options
from diffusion_jax.interop.diffusers_options import ATTENTION, BLOCK, SILU
from diffusion_jax.interop.names import Layer, Params, Tensors
from diffusion_jax.interop.reader import ForeignModel, facts_of

CLASS = 'AutoencoderKL'
# The options of the class with their defaults; config.json may omit some.
OPTIONS = options.of_text("""
  in_channels=3 out_channels=3 down_block_types="('DownEncoderBlock2D',)"
  up_block_types="('UpDecoderBlock2D',)" block_out_channels=64, layers_per_block=1 act_fn=silu
  latent_channels=4 norm_num_groups=32 sample_size=32 scaling_factor=0.18215 shift_factor=None
  latents_mean=None latents_std=None force_upcast=True use_quant_conv=True use_post_quant_conv=True
  mid_block_add_attention=True
""")
# Fields of `Autoencoder`, with the option for each.
FIELDS: options.OptionFields = {
  'latent_channels': 'latent_channels',
  'num_blocks': 'layers_per_block',
  'num_groups': 'norm_num_groups',
  'middle_attention': ('mid_block_add_attention', {True: 'norm', False: 'none'}),
  'latent_convs': ('use_quant_conv', {True: True, False: None}),
}
_DOWN, _UP = ('DownEncoderBlock2D',), ('UpDecoderBlock2D',)
_LIMITS = (-30.0, 20.0)  # AutoencoderKL clips log-variances to them.

# A change of resolution ends a level there; on the way down it begins one here.
LAYERS = names.table(
  """
  encoder_conv                         quant_conv
  decoder_conv                         post_quant_conv
  encoder/conv_in                      encoder.conv_in
  encoder/down_{level}_{i}_block       encoder.down_blocks.{level}.resnets.{i}  block
  encoder/down_{level}_downsample/conv encoder.down_blocks.{before}.downsamplers.0.conv
  encoder/middle_0_block               encoder.mid_block.resnets.0              block
  encoder/middle_attention             encoder.mid_block.attentions.0           attention
  encoder/middle_1_block               encoder.mid_block.resnets.1              block
  encoder/norm_out                     encoder.conv_norm_out
  encoder/conv_out                     encoder.conv_out
  decoder/conv_in                      decoder.conv_in
  decoder/middle_0_block               decoder.mid_block.resnets.0              block
  decoder/middle_attention             decoder.mid_block.attentions.0           attention
  decoder/middle_1_block               decoder.mid_block.resnets.1              block
  decoder/up_{level}_{i}_block         decoder.up_blocks.{back}.resnets.{i}     block
  decoder/up_{level}_upsample/conv     decoder.up_blocks.{back}.upsamplers.0.conv
  decoder/norm_out                     decoder.conv_norm_out
  decoder/conv_out                     decoder.conv_out
  """,
  block=BLOCK,
  attention=ATTENTION,
)


def describe(config: options.Options) -> ForeignModel:
  """Returns the autoencoder of a config.json."""
  c = theirs.complete(CLASS, config, OPTIONS, FIELDS, _allowed)
  size = theirs.sides(c.sample_size, CLASS)
  fields = options.fields_of(c, FIELDS) | {
    'channels': c.block_out_channels[0],
    'multipliers': theirs.multipliers(c.block_out_channels),
    'decoder_blocks': c.layers_per_block + 1,
    'log_variance_limits': _LIMITS,
  }
  network = Autoencoder(**fields, image_size=size, out_channels=c.out_channels)
  scale = float(c.scaling_factor)
  sections = {
    'network': {'name': 'autoencoder', **fields},
    'objective': {'name': 'vae'},
    'decoding': {'decoder': 'unit_gaussian', 'scale': scale},
  }
  return ForeignModel(network, layers_of(network), sections, facts_of((*size, c.out_channels), 0))


def layers_of(network: Autoencoder) -> list[Layer]:
  """Returns the layers with their names there."""
  return names.expand(LAYERS, network.num_blocks, len(network.multipliers))


def write(network: Autoencoder, params: Params, rule: names.NameRule | None = None) -> Tensors:
  """Returns the tensors of an AutoencoderKL; rule: see `names.write`."""
  return names.write(names.entries(layers_of(network), params), params, rule)


def _allowed(c):
  widths = c.block_out_channels
  return {
    'act_fn': SILU,
    'shift_factor': (None, 0.0),
    'latents_mean': (None,),
    'latents_std': (None,),
    'out_channels': (c.in_channels,),
    'use_post_quant_conv': (c.use_quant_conv,),
    'down_block_types': theirs.wrong_blocks(c.down_block_types, _DOWN, widths),
    'up_block_types': theirs.wrong_blocks(c.up_block_types, _UP, widths),
  }


def write_config(network: Autoencoder, scale: float) -> options.Options:
  """Returns the config.json of an AutoencoderKL.

  scale: factor of the latents. Raises ValueError for fields without a
  counterpart.
  """
  limits, levels = network.log_variance_limits, network.attention_resolutions
  values = vars(network) | {
    'log_variance_limits': limits and tuple(limits),
    'attention_resolutions': tuple(levels),
  }
  options.check(
    'our autoencoder',
    values,
    {
      'latent_dim': (0,),
      'attention_resolutions': ((),),
      'norm_eps': (1e-6,),
      'middle_attention': ('norm', 'none'),
      'decoder_blocks': (network.num_blocks + 1,),
      'log_variance_limits': (_LIMITS,),
    },
    f'in {CLASS}',
  )
  widths = [int(network.channels * m) for m in network.multipliers]
  return {**OPTIONS, **options.options_of(network, FIELDS)} | {
    '_class_name': CLASS,
    'in_channels': network.out_channels,
    'out_channels': network.out_channels,
    'down_block_types': [*_DOWN] * len(widths),
    'up_block_types': [*_UP] * len(widths),
    'block_out_channels': widths,
    'sample_size': theirs.sample_size(*network.image_size),
    'scaling_factor': scale,
    'use_post_quant_conv': bool(network.latent_convs),
  }

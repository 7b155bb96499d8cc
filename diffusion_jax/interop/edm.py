"""Weights of EDM (Karras et al. 2022): its DDPM++, NCSN++ and ADM networks.

Their pickles run code, so the state dict is read from a safetensors file, and
the options of the network from a JSON file of the same name next to it; both
are written where EDM is installed (docs/weights.md).
"""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from diffusion_jax.interop import names, reader
from diffusion_jax.interop.names import KERNEL, LayerNames, NameRule
from diffusion_jax.interop.options import (
  Allowed,
  beside,
  check,
  complete,
  fields_of,
  models,
  of_text,
  typed,
)
from diffusion_jax.interop.weight_files import read_tensors
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.unet import UNet

# The class of a wrapper, and the keywords of its constructor with defaults.
OUTER = of_text("""
  precond=EDMPrecond model_type=DhariwalUNet img_resolution=0 img_channels=3 label_dim=0
  use_fp16=False sigma_min=0 sigma_max=1e999 sigma_data=0.5 beta_d=19.9 beta_min=0.1 M=1000
  epsilon_t=1e-5 C_1=0.001 C_2=0.008
""")
# The keywords of the networks.
OPTIONS = models("""
  DhariwalUNet  model_channels=192 channel_mult=1,2,3,4 channel_mult_emb=4 num_blocks=3 \
    attn_resolutions=32,16,8 dropout=0.1 label_dropout=0 augment_dim=0
  SongUNet      DhariwalUNet model_channels=128 channel_mult=1,2,2,2 num_blocks=4 \
    attn_resolutions=16, embedding_type=positional channel_mult_noise=1 encoder_type=standard \
    decoder_type=standard resample_filter=1,1
""")
GROUPS = 32  # the groups of a norm, or fewer so that a group has 4 channels


def choose_options(**given: object) -> SimpleNamespace:
  """Returns all options, with EDM's defaults.

  Raises ValueError for options without a counterpart here. Song et al.'s
  wrapper of VE networks is read around NCSN++ without other inputs only.
  """
  model = str(given.get('model_type', OUTER['model_type']))
  check('EDM', {'model_type': model}, {'model_type': tuple(OPTIONS)})
  defaults = {**OUTER, **OPTIONS[model]}
  if given.get('precond') == 'VEPrecond':
    defaults |= {'sigma_min': 0.02, 'sigma_max': 100}
  return complete(model, defaults, typed(model, defaults, given), _allowed)


def _allowed(o) -> Allowed:
  ve, adm = o.precond == 'VEPrecond', o.model_type == 'DhariwalUNet'
  wrappers = 'EDMPrecond', 'VPPrecond', 'VEPrecond', 'iDDPMPrecond'
  allowed: dict[str, Collection[object] | str] = {
    'precond': wrappers,
    'img_resolution': '' if o.img_resolution else 'it is missing',
    'channel_mult_emb': (4,),
    'augment_dim': (0,) if ve or adm else (0, 9),
    'label_dim': (0,) if ve else (o.label_dim,),
  }
  if adm:
    least = 4 * GROUPS
    narrow = o.model_channels * min(o.channel_mult) < least
    reason = f'with fewer than {least} channels its norms have fewer groups'
    return allowed | {'model_channels': reason if narrow else '', 'precond': () if ve else wrappers}
  kinds = {'fourier': 2} if ve else {'positional': 1, 'fourier': 2}
  return allowed | {
    'embedding_type': tuple(kinds),
    'channel_mult_noise': (kinds.get(o.embedding_type),),
    'encoder_type': ('standard', 'residual'),
    'decoder_type': ('standard',),
  }


# Fields of ours, and the option for each.
FIELDS = of_text("""
  channels=model_channels multipliers=channel_mult num_blocks=num_blocks
  attention_resolutions=attn_resolutions dropout=dropout
""")
FILTER = 'resample_filter'  # a buffer of layers that change the resolution
# What an option that is set means for the user.
NOTES = {
  'use_fp16': 'EDM computes this network in float16; here it is float32',
  'augment_dim': 'the network was trained with augmentation labels; without '
  "cond['augment'] an image counts as not augmented",
}

ADM = of_text("""
  noise_embedding=openai scale_shift=True resblock_updown=True head_channels=64 qkv=interleaved
  norm_eps=1e-5 initializer=torch
""")

BLOCK = names.resnet_block('norm0 conv0 affine norm1 conv1 skip')
# Their UNetBlock is a residual block followed by attention.
ATTENTION = names.layers('norm qkv proj_out', 'norm2 qkv proj')
# ADM's labels go through a Linear without bias, as one-hot vectors. A missing
# label is a vector of zeros, so the null class is a row of zeros at the end.
_ROWS_AND_NULL = NameRule(
  lambda x: np.concatenate([x.T, np.zeros_like(x.T[:1])]), lambda x: x[:-1].T
)
# A block that changes the resolution is named after its output's resolution.
LAYERS = names.table(
  """
  noise_dense_1               map_layer0
  noise_dense_2               map_layer1
  label_embedding/linear      map_label
  augment_dense               map_augment
  noise_fourier/frequencies   map_noise.freqs
  conv_in                     enc.{height}x{height}_conv
  down_{level}_{i}_block      enc.{side}x{side}_block{i}  block
  down_{level}_{i}_attention  enc.{side}x{side}_block{i}  attention
  down_{level}_downsample     enc.{half}x{half}_down      block
  down_{level}_pyramid        enc.{half}x{half}_aux_residual
  middle_0_block              dec.{side}x{side}_in0       block
  middle_attention            dec.{side}x{side}_in0       attention
  middle_1_block              dec.{side}x{side}_in1       block
  up_{level}_{i}_block        dec.{side}x{side}_block{i}  block
  up_{level}_{i}_attention    dec.{side}x{side}_block{i}  attention
  up_{level}_upsample         dec.{twice}x{twice}_up      block
  """,
  block=BLOCK,
  attention=ATTENTION,
)


def load(path: str | Path, /, **options: object) -> reader.Imported:
  """Returns the network of a .safetensors file with a .json next to it.

  options: keywords of EDM's classes, which override the JSON file; without the
  file give img_resolution and model_type. Raises ValueError for an option
  without a counterpart and tensors that do not fit.
  """
  options = beside(path, options)
  return from_tensors(read_tensors(path), **options)


def from_tensors(tensors: names.Tensors, /, **options: object) -> reader.Imported:
  """Returns the network of a state dict; the arguments are as for `load`."""
  o = choose_options(**options)
  weights = vars(o).get(FILTER, (1, 1))
  line = np.array(weights, np.float32)
  square = np.outer(line, line) / line.sum() ** 2
  for name in (name for name in tensors if name.endswith(FILTER)):
    stored = np.squeeze(tensors[name])
    names.require(
      stored.shape == square.shape and np.allclose(stored, square),
      f'{name}, of shape {np.shape(tensors[name])}, is not the filter of the '
      f'option {FILTER}={weights}',
    )
  imported = describe(o).read(tensors, lambda name: name == 'u' or name.endswith(FILTER))
  if o.precond == 'VEPrecond':
    return imported._replace(params=reader.ve_as_eps(imported.params))
  return imported


def describe(options: SimpleNamespace) -> reader.ForeignModel:
  """Returns the network of the options."""
  o, shape = options, (options.img_resolution,) * 2 + (options.img_channels,)
  fields, adm = fields_of(o, FIELDS), o.model_type == 'DhariwalUNet'
  given = {
    'inputs': Inputs(
      num_classes=o.label_dim,
      null_class=o.label_dim > 0 and o.label_dropout > 0,
      augment_dim=o.augment_dim,
    ),
    'out_channels': o.img_channels * (1 + (o.precond == 'iDDPMPrecond')),
  }
  conditioning = {'labels': o.label_dim > 0, 'dropout': float(o.label_dropout)}
  network: UNet | DDPMpp
  if adm:
    fields |= ADM | {'stem_channels': int(o.model_channels * o.channel_mult[0])}
    network = UNet(**fields, **given)
  else:
    if o.embedding_type == 'fourier':
      fields['noise_embedding'] = 'fourier'
    if o.encoder_type == 'residual':
      fields['input_pyramid'] = True
    if o.resample_filter != (1, 1):
      fields['resample_filter'] = o.resample_filter
    conditioning['augment'] = 0.12 if o.augment_dim else 0.0
    network = DDPMpp(**fields, **given)
  sections = {
    'network': {'name': 'unet' if adm else 'ddpmpp', **fields},
    'conditioning': conditioning,
    **_process(o),
  }
  facts = reader.facts_of(shape, o.label_dim)
  height = o.img_resolution
  end = 'out' if adm else f'dec.{height}x{height}_aux'
  label = _ROWS_AND_NULL if network.inputs.null_class else KERNEL
  ends = names.table(
    f"""
    label_embedding/table  map_label  label
    norm_out               {end}_norm
    conv_out               {end}_conv
    """,
    label=LayerNames({'embedding': ('weight', label)}),
  )
  table = names.expand(LAYERS | ends, network.num_blocks, len(network.multipliers), height)
  layers = [*names.within('', 'model', table)]
  notes = tuple(note for holds, note in NOTES.items() if vars(o)[holds])
  return reader.ForeignModel(network, layers, sections, facts, notes)


def edm_sections(sigma_data: float, num_steps: int) -> reader.Sections:
  """Returns the sections of EDM's preconditioning, loss and sampler."""
  return {
    'schedule': {'name': 'karras'},
    'noise_input': {'name': 'edm'},
    'parametrization': {'name': 'edm', 'sigma_data': sigma_data},
    'objective': {'name': 'denoising', 'times': {'name': 'log_normal'}, 'weight': {'name': 'edm'}},
    'sampling': _heun(num_steps),
  }


def _heun(num_steps):
  return {'sampler': {'name': 'heun'}, 'grid': {'number': num_steps}, 'bound': None}


def _process(o):
  # How the wrapper scales the input and the output, and names the noise.
  num_steps = 18 if o.img_resolution <= 32 else 40
  if o.precond == 'EDMPrecond':
    return edm_sections(o.sigma_data, num_steps)
  if o.precond == 'iDDPMPrecond':
    sampler = {'name': 'ancestral', 'variance': 'learned'}
    sections = reader.eps_sections(
      {'name': 'cosine', 'num_steps': o.M}, {'name': 'step'}, {'sampler': sampler, 'num_steps': o.M}
    )
    objective = {'name': 'hybrid', 'weight': {'name': 'snr'}}
    return sections | {'objective': objective}
  sampling = _heun(num_steps) | {'grid': {'number': num_steps, 'spacing': 'karras'}}
  if o.precond == 'VPPrecond':
    ends = {'beta_min': o.beta_min, 'beta_max': o.beta_min + o.beta_d}
    noise_input = {'name': 'time', 'scale': o.M - 1.0}
    schedule = {'name': 'linear_vp', **ends}
    return reader.eps_sections(schedule, noise_input, sampling, o.epsilon_t)
  ends = {'sigma_min': o.sigma_min, 'sigma_max': o.sigma_max}
  schedule = {'name': 'geometric_ve', **ends}
  return reader.eps_sections(schedule, {'name': 'log_sigma'}, sampling, 1e-5)

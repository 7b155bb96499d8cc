"""Weights of EDM2 (Karras et al. 2024): its networks of pixels.

Their pickles run code, so the state dict is read from a safetensors file, and
the options of the network from a JSON file of the same name next to it; both
are written where EDM2 is installed (docs/weights.md).
"""

import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop import names
from diffusion_jax.interop.edm import FIELDS, edm_sections
from diffusion_jax.interop.names import Layer, LayerNames
from diffusion_jax.interop.options import beside, complete, fields_of, of_text, typed
from diffusion_jax.interop.reader import ForeignModel, Imported, facts_of
from diffusion_jax.interop.weight_files import read_tensors
from diffusion_jax.networks.edm2 import EDM2, Uncertainty
from diffusion_jax.networks.inputs import Inputs

# The keywords of their Precond and UNet with the defaults.
OPTIONS = of_text("""
  img_resolution=0 img_channels=3 label_dim=0 use_fp16=True sigma_data=0.5 logvar_channels=128
  model_channels=192 channel_mult=1,2,3,4 channel_mult_noise=None channel_mult_emb=None num_blocks=3
  attn_resolutions=16,8 label_balance=0.5 concat_balance=0.5 channels_per_head=64 dropout=0.0
  res_balance=0.3 attn_balance=0.3 clip_act=256
""")
# Options that are fixed in our network.
ONLY = """
  channel_mult_noise channel_mult_emb label_balance concat_balance res_balance attn_balance clip_act
""".split()

# Their frequencies and phases are in radians, ours in periods.
_TURNS = names.NameRule(
  lambda x: x / np.float32(2 * math.pi), lambda x: x * np.float32(2 * math.pi)
)
FOURIER = LayerNames({'frequencies': ('freqs', _TURNS), 'phases': ('phases', _TURNS)})
BLOCK = (
  *names.layers(
    'embedding_gain conv_1 embedding_proj conv_2', 'emb_gain conv_res0 emb_linear conv_res1'
  ),
  *names.layers('shortcut qkv proj_out', 'conv_skip attn_qkv attn_proj', names.POINTWISE),
)
LAYERS = names.table(
  """
  gain_out                  unet.out_gain
  noise_fourier             unet.emb_fourier                 fourier
  noise_linear              unet.emb_noise
  label_linear              unet.emb_label
  conv_in                   unet.enc.{height}x{height}_conv
  conv_out                  unet.out_conv
  down_{level}_first_block  unet.enc.{side}x{side}_down      block
  down_{level}_{i}_block    unet.enc.{side}x{side}_block{i}  block
  middle_0_block            unet.dec.{side}x{side}_in0       block
  middle_1_block            unet.dec.{side}x{side}_in1       block
  up_{level}_first_block    unet.dec.{side}x{side}_up        block
  up_{level}_{i}_block      unet.dec.{side}x{side}_block{i}  block
  """,
  block=BLOCK,
  fourier=FOURIER,
)
# The layers of u(sigma).
LOGVAR = Layer('fourier', 'logvar_fourier', FOURIER), Layer('linear', 'logvar_linear', names.TORCH)


def load(path: str | Path, /, **options: object) -> Imported:
  """Returns the network of a .safetensors file with a .json next to it.

  `more` of the result contains the weights of u(sigma). options: keywords of
  EDM2's Precond, which override the JSON file. Raises ValueError for
  an option without a counterpart, a network of latents, whose channels EDM2
  normalises one by one, and tensors that do not fit.
  """
  options = beside(path, options)
  return from_tensors(read_tensors(path), **options)


def from_tensors(tensors: names.Tensors, /, **options: object) -> Imported:
  """Returns the network of a state dict; the arguments are as for `load`."""
  o = choose_options(**options)
  of_head = {n: x for n, x in tensors.items() if n.startswith('logvar_')}
  rest = {n: x for n, x in tensors.items() if n not in of_head}
  imported = describe(o).read(rest)
  head = Uncertainty(o.logvar_channels)
  shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros(1))['params']
  params = names.read(names.entries(LOGVAR, shapes), of_head, shapes)
  return imported._replace(more={'uncertainty': params})


def choose_options(**given: object) -> SimpleNamespace:
  """Returns all options, with defaults; ValueError as `load`."""
  return complete('EDM2', OPTIONS, typed('EDM2', OPTIONS, given), _allowed)


def _allowed(o):
  latents = (
    'EDM2 normalises each channel of its latents, which latent.run does not: '
    'only networks of pixels are read'
  )
  return {name: (OPTIONS[name],) for name in ONLY} | {
    'img_resolution': '' if o.img_resolution else 'it is missing',
    'img_channels': '' if o.img_channels in (1, 3) else latents,
  }


def describe(options: SimpleNamespace) -> ForeignModel:
  """Returns the network of the options."""
  o, shape = options, (options.img_resolution,) * 2 + (options.img_channels,)
  fields = fields_of(o, {**FIELDS, 'head_channels': 'channels_per_head'})
  network = EDM2(**fields, out_channels=o.img_channels, inputs=Inputs(num_classes=o.label_dim))
  sections = edm_sections(o.sigma_data, 32) | {
    'network': {'name': 'edm2', **fields},
    'conditioning': {'labels': o.label_dim > 0},
  }
  uncertainty = {'name': 'fourier', 'features': o.logvar_channels}
  sections['objective'] |= {'uncertainty': uncertainty}
  layers = names.expand(LAYERS, network.num_blocks, len(network.multipliers), o.img_resolution)
  return ForeignModel(network, layers, sections, facts_of(shape, o.label_dim))

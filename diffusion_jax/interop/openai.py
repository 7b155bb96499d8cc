"""Weights of improved-diffusion and guided-diffusion (OpenAI).

Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021: their U-Nets, up-samplers and
noisy classifiers, from the .pt files of their releases or training scripts.
"""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax

from diffusion_jax.interop import reader
from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  TORCH,
  TORCH_CONV1D,
  TORCH_EMBEDDING,
  Kind,
  Layer,
  expand,
  resnet_block,
)
from diffusion_jax.interop.names import LINEAR, Tensors, find
from diffusion_jax.interop.openai_options import (
  OF_CLASSIFIER,
  OF_UNET,
  STYLE,
  choose_flags,
  image_size,
  multipliers,
)
from diffusion_jax.interop.options import fields_of
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.unet import UNet

# Their ResBlock and AttentionBlock.
BLOCK = resnet_block(
  TORCH,
  'in_layers.0',
  'in_layers.2',
  'emb_layers.1',
  'out_layers.0',
  'out_layers.3',
  'skip_connection',
)
ATTENTION = (
  Layer('norm', 'norm', TORCH.norm),
  Layer('qkv', 'qkv', TORCH_CONV1D),
  Layer('proj_out', 'proj_out', TORCH_CONV1D),
)
# The layers of both networks. {down} and {up} count their input_blocks and
# output_blocks, {after} the modules of a block before a change of resolution.
LAYERS = {
  'noise_dense_1': ('time_embed.0', TORCH.linear),
  'noise_dense_2': ('time_embed.2', TORCH.linear),
  'label_embedding/table': ('label_emb', TORCH_EMBEDDING),
  'conv_in': ('input_blocks.0.0', TORCH.conv),
  'down_{level}_{i}_block': ('input_blocks.{down}.0', BLOCK),
  'down_{level}_{i}_attention': ('input_blocks.{down}.1', ATTENTION),
  'down_{level}_downsample': ('input_blocks.{down}.0', BLOCK),
  'down_{level}_downsample/conv': ('input_blocks.{down}.0.op', TORCH.conv),
  'middle_0_block': ('middle_block.0', BLOCK),
  'middle_attention': ('middle_block.1', ATTENTION),
  'middle_1_block': ('middle_block.2', BLOCK),
  'up_{level}_{i}_block': ('output_blocks.{up}.0', BLOCK),
  'up_{level}_{i}_attention': ('output_blocks.{up}.1', ATTENTION),
  'up_{level}_upsample': ('output_blocks.{up}.{after}', BLOCK),
  'up_{level}_upsample/conv': ('output_blocks.{up}.{after}.conv', TORCH.conv),
  'norm_out': ('out.0', TORCH.norm),
  'conv_out': ('out.2', TORCH.conv),
  # positional_embedding [channels, tokens] of their AttentionPool2d
  'pool': ('out.2', Kind({'places': ('positional_embedding', LINEAR)})),
  'pool/qkv': ('out.2.qkv_proj', TORCH_CONV1D),
  'pool/proj_out': ('out.2.c_proj', TORCH_CONV1D),
}


def load(path: str | Path, model: str = '', **flags: object) -> reader.Imported:
  """Returns the network of a .pt file, or .safetensors with the same names.

  model: a name of MODELS; by default the name of the file. flags: flags of the
  project's scripts, as in FLAGS, which override the model's; lists may be
  strings, '32,16,8'. Raises ValueError for an unknown model or flag, an option
  without a counterpart, and tensors that do not fit.
  """
  tensors = read_tensors(path)
  return from_tensors(tensors, model or Path(path).stem, **flags)


def from_tensors(
  tensors: Tensors, model: str, **flags: object
) -> reader.Imported:
  """Returns the network of a state dict; the arguments are as for `load`."""
  chosen = choose_flags(model, **flags)
  # Their scripts know 1000 classes; other numbers come from forks.
  classes = 0
  if chosen.classifier or chosen.class_cond:
    weight = 'out.2.c_proj' if chosen.classifier else 'label_emb'
    classes = len(find(tensors, f'{weight}.weight'))
  return describe(chosen, classes).read(tensors)


def describe(flags: SimpleNamespace, num_classes: int) -> reader.Model:
  """Returns the network of the flags."""
  size, widths = image_size(flags), multipliers(flags)
  fields = {
    **STYLE,
    'multipliers': widths,
    'qkv': 'new' if flags.use_new_attention_order else 'legacy',
    **fields_of(flags, OF_CLASSIFIER if flags.classifier else OF_UNET),
  }
  fields['stem_channels'] = int(fields['channels'] * widths[0])
  if flags.classifier:
    fields['head_channels'] = 64  # Their EncoderUNetModel has no flag for it.
  elif flags.num_head_channels == -1:
    fields['num_heads'] = flags.num_heads
  else:
    fields['head_channels'] = flags.num_head_channels
  sections = _sections(flags, num_classes)
  network: UNet | NoisyClassifier
  if flags.classifier:
    network = NoisyClassifier(**fields, num_classes=num_classes)
    sections['network'] = {'name': 'classifier', **fields}
  else:
    network = UNet(
      **fields,
      out_channels=6 if flags.learn_sigma else 3,
      inputs=Inputs(
        num_classes=num_classes, image_channels=3 if flags.large_size else 0
      ),
    )
    sections['network'] = {'name': 'unet', **fields}
  places = functools.partial(_places, network, size)
  layers = expand(LAYERS, network.num_blocks, len(widths), places=places)
  notes = (ENLARGED,) if flags.large_size else ()
  facts = reader.facts_of((size, size, 3), num_classes)
  return reader.Model(network, layers, sections, facts, notes)


def _places(network, size, level, i):
  count, last = network.num_blocks + 1, len(network.multipliers) - 1
  attends = size >> level in network.attention_resolutions
  return {
    'down': 1 + level * count + i,
    'up': (last - level) * count + i,
    'after': 2 if attends else 1,
  }


def _sections(f, num_classes) -> reader.Sections:
  # Their linear betas for T steps are those for 1000 steps times 1000 / T.
  rescaled = f.noise_schedule == 'linear' and f.diffusion_steps != 1000
  schedule = 'rescaled_linear' if rescaled else f.noise_schedule
  sections: reader.Sections = {
    'schedule': {'name': schedule, 'num_steps': f.diffusion_steps},
    'noise_input': {'name': 'rescaled_step' if f.rescale_timesteps else 'step'},
  }
  if f.classifier:
    return sections | {'objective': {'name': 'classifier'}}
  variance = 'fixed_small' if f.sigma_small else 'fixed_large'
  variance = 'learned' if f.learn_sigma else variance
  conditioning: reader.Sections = {'labels': num_classes > 0}
  if f.large_size:
    factor = f.large_size // f.small_size
    conditioning['image'] = {'name': 'superres', 'factor': factor}
  objective: reader.Sections = {'name': 'denoising'}
  if f.learn_sigma and f.use_kl:
    objective = {'name': 'vlb', 'loss_aware': True}
  elif f.learn_sigma:
    # Our bound is T times its term at a step. Their bound is the plain term, or
    # T / 1000 times it if it is rescaled.
    scale = 1000 if f.rescale_learned_sigmas else f.diffusion_steps
    objective = {'name': 'hybrid', 'vlb_weight': 1.0 / scale}
  return sections | {
    'parametrization': {'name': 'x0' if f.predict_xstart else 'eps'},
    'objective': objective,
    'conditioning': conditioning,
    'sampling': {
      'sampler': {'name': 'ancestral', 'variance': variance},
      'num_steps': f.diffusion_steps,
    },
  }


ENLARGED = (
  'the up-sampler was trained on small images enlarged by bilinear '
  'interpolation, but conditioning.image=superres repeats their pixels: in '
  "code, pass cond['image'] = interop.openai.enlarge(small, size)"
)


def enlarge(low_res: jax.Array, size: int) -> jax.Array:
  """Returns images enlarged for the up-samplers: [B, h, h, C] -> [B, H, H, C].

  By bilinear interpolation between the centres of the pixels; H = size.
  """
  shape = (len(low_res), size, size, low_res.shape[-1])
  return jax.image.resize(low_res, shape, 'bilinear', antialias=False)

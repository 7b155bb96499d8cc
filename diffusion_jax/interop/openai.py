"""Weights of improved-diffusion and guided-diffusion (OpenAI).

Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021: their U-Nets, up-samplers and
noisy classifiers, from the .pt files of their releases or training scripts.
"""

from pathlib import Path
from types import SimpleNamespace

import jax

from diffusion_jax.interop import names, reader
from diffusion_jax.interop.options import (
  complete,
  fields_of,
  models,
  of_model,
  of_text,
  typed,
)
from diffusion_jax.interop.weight_files import read_tensors
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.unet import NoisyClassifier, UNet

# The flags of the scripts with the defaults of guided-diffusion; 'improved' in
# MODELS has the defaults of improved-diffusion. A classifier has `classifier`
# and the flags classifier_*, an up-sampler large_size and small_size.
FLAGS = of_text("""
  image_size=64 large_size=0 small_size=0 num_channels=128 num_res_blocks=2 channel_mult=()
  num_heads=4 num_head_channels=-1 num_heads_upsample=-1 attention_resolutions=16,8 dropout=0.0
  class_cond=False learn_sigma=False sigma_small=False use_scale_shift_norm=True
  resblock_updown=False use_new_attention_order=False diffusion_steps=1000 noise_schedule=linear
  use_kl=False predict_xstart=False rescale_timesteps=False rescale_learned_sigmas=False
  classifier=False classifier_width=128 classifier_depth=2
  classifier_attention_resolutions=32,16,8 classifier_use_scale_shift_norm=True
  classifier_resblock_updown=True classifier_pool=attention
""")

# Fields that all their networks share; and our fields, with the flag for each.
STYLE = of_text("""
  noise_embedding=openai downsample_padding=symmetric norm_eps=1e-5 initializer=torch
""")
OF_UNET = of_text("""
  channels=num_channels num_blocks=num_res_blocks attention_resolutions=attention_resolutions
  scale_shift=use_scale_shift_norm resblock_updown=resblock_updown dropout=dropout
""")
OF_CLASSIFIER = of_text("""
  channels=classifier_width num_blocks=classifier_depth
  attention_resolutions=classifier_attention_resolutions
  scale_shift=classifier_use_scale_shift_norm resblock_updown=classifier_resblock_updown
""")

# channel_mult by the size of the image, where the flag is empty.
MULTIPLIERS = {
  32: (1, 2, 2, 2),
  64: (1, 2, 3, 4),
  128: (1, 1, 2, 3, 4),
  256: (1, 1, 2, 2, 4, 4),
  512: (0.5, 1, 1, 2, 2, 4, 4),
}
UPSAMPLER_MULTIPLIERS = MULTIPLIERS | {512: (1, 1, 2, 2, 4, 4)}

# The flags of the published checkpoints by the name of their file; and, last,
# the defaults of each project.
MODELS = models("""
  cifar10_uncond_50M_500K      rescale_timesteps=True rescale_learned_sigmas=True num_res_blocks=3 \
    learn_sigma=True diffusion_steps=4000 noise_schedule=cosine image_size=32 dropout=0.3
  cifar10_uncond_vlb_50M_500K  cifar10_uncond_50M_500K use_kl=True
  imagenet64_uncond_100M_1500K  cifar10_uncond_50M_500K image_size=64 dropout=0.0
  imagenet64_uncond_vlb_100M_1500K  imagenet64_uncond_100M_1500K use_kl=True
  imagenet64_cond_270M_250K    imagenet64_uncond_100M_1500K num_channels=192 class_cond=True \
    rescale_timesteps=False rescale_learned_sigmas=False
  upsample_cond_500K           large_size=256 small_size=64 num_channels=192 learn_sigma=True \
    class_cond=True diffusion_steps=4000
  lsun_uncond_100M_1200K_bs128  image_size=256 num_heads=1 learn_sigma=True \
    use_scale_shift_norm=False attention_resolutions=16,
  lsun_uncond_100M_2400K_bs64  lsun_uncond_100M_1200K_bs128
  512x512_diffusion            image_size=512 attention_resolutions=32,16,8 class_cond=True \
    learn_sigma=True num_channels=256 num_head_channels=64 resblock_updown=True
  256x256_diffusion            512x512_diffusion image_size=256
  256x256_diffusion_uncond     256x256_diffusion class_cond=False
  128x128_diffusion            512x512_diffusion image_size=128 num_heads=4 num_head_channels=-1
  64x64_diffusion              512x512_diffusion image_size=64 num_channels=192 num_res_blocks=3 \
    dropout=0.1 noise_schedule=cosine use_new_attention_order=True
  64_256_upsampler             512x512_diffusion large_size=256 small_size=64 num_channels=192 \
    num_head_channels=-1
  128_512_upsampler            512x512_diffusion large_size=512 small_size=128 num_channels=192 \
    attention_resolutions=32,16
  lsun_bedroom                 256x256_diffusion_uncond dropout=0.1
  lsun_cat                     lsun_bedroom
  lsun_horse                   lsun_bedroom
  lsun_horse_nodropout         lsun_horse dropout=0.0
  64x64_classifier             classifier=True image_size=64 classifier_depth=4
  128x128_classifier           classifier=True image_size=128
  256x256_classifier           classifier=True image_size=256
  512x512_classifier           classifier=True image_size=512
  guided
  improved                     rescale_timesteps=True rescale_learned_sigmas=True
  classifier                   classifier=True
""")


def choose_flags(model: str, /, **flags: object) -> SimpleNamespace:
  """Returns the flags of a name in MODELS; `flags` override them."""
  hint = (
    "name the published file, or 'guided', 'improved' or 'classifier' with the "
    'flags of the training'
  )
  defaults = {**FLAGS, **of_model(MODELS, model, hint)}
  return complete(model, defaults, typed(model, defaults, flags), _allowed)


def _allowed(f):
  large, small = f.large_size, f.small_size
  fits = bool(large) == bool(small) and not (large and large % small)
  return {
    'num_heads_upsample': (-1, f.num_heads),
    'classifier_pool': ('attention',),
    'noise_schedule': ('linear', 'cosine'),
    'large_size': ''
    if fits
    else (
      'an up-sampler has both flags large_size and small_size, and the first '
      f'is a multiple of the second, {small}'
    ),
    'image_size': ''
    if multipliers(f)
    else (f'give channel_mult, which has a default for {", ".join(map(str, MULTIPLIERS))} only'),
  }


def image_size(flags: SimpleNamespace) -> int:
  """Returns the height of the images that the network takes."""
  return flags.large_size or flags.image_size


def multipliers(flags: SimpleNamespace) -> tuple[float, ...]:
  """Returns channel_mult, or its default; () if it does not have one."""
  defaults = UPSAMPLER_MULTIPLIERS if flags.large_size else MULTIPLIERS
  return flags.channel_mult or defaults.get(image_size(flags), ())


# The layers of OpenAI's ResBlock and AttentionBlock.
BLOCK = names.resnet_block(
  'in_layers.0 in_layers.2 emb_layers.1 out_layers.0 out_layers.3 skip_connection'
)
ATTENTION = names.layers('norm qkv proj_out', 'norm qkv proj_out')
# positional_embedding [channels, tokens] of their AttentionPool2d
PLACES = names.LayerNames({'places': ('positional_embedding', names.KERNEL)})
# The layers of both networks. {down} and {up} count their input_blocks and
# output_blocks, {after} the modules of a block before a change of resolution.
LAYERS = names.table(
  """
  noise_dense_1                 time_embed.0
  noise_dense_2                 time_embed.2
  label_embedding/table         label_emb
  conv_in                       input_blocks.0.0
  down_{level}_{i}_block        input_blocks.{down}.0       block
  down_{level}_{i}_attention    input_blocks.{down}.1       attention
  down_{level}_downsample       input_blocks.{down}.0       block
  down_{level}_downsample/conv  input_blocks.{down}.0.op
  middle_0_block                middle_block.0              block
  middle_attention              middle_block.1              attention
  middle_1_block                middle_block.2              block
  up_{level}_{i}_block          output_blocks.{up}.0        block
  up_{level}_{i}_attention      output_blocks.{up}.1        attention
  up_{level}_upsample           output_blocks.{up}.{after}  block
  up_{level}_upsample/conv      output_blocks.{up}.{after}.conv
  norm_out                      out.0
  conv_out                      out.2
  pool                          out.2                       places
  pool/qkv                      out.2.qkv_proj
  pool/proj_out                 out.2.c_proj
  """,
  block=BLOCK,
  attention=ATTENTION,
  places=PLACES,
)


def load(path: str | Path, /, model: str = '', **flags: object) -> reader.Imported:
  """Returns the network of a .pt file, or .safetensors with the same names.

  model: a name of MODELS; by default the name of the file. flags: flags of the
  project's scripts, as in FLAGS, which override the model's; lists may be
  strings, '32,16,8'. Raises ValueError for an unknown model or flag, an option
  without a counterpart, and tensors that do not fit.
  """
  return from_tensors(read_tensors(path), model or Path(path).stem, **flags)


def from_tensors(tensors: names.Tensors, model: str, /, **flags: object) -> reader.Imported:
  """Returns the network of a state dict; the arguments are as for `load`."""
  chosen = choose_flags(model, **flags)
  # Their scripts know 1000 classes; other numbers come from forks.
  classes = 0
  if chosen.classifier or chosen.class_cond:
    weight = 'out.2.c_proj' if chosen.classifier else 'label_emb'
    classes = len(names.find(tensors, f'{weight}.weight'))
  return describe(chosen, classes).read(tensors)


def describe(flags: SimpleNamespace, num_classes: int) -> reader.ForeignModel:
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
    inputs = Inputs(num_classes=num_classes, image_channels=3 if flags.large_size else 0)
    network = UNet(**fields, out_channels=6 if flags.learn_sigma else 3, inputs=inputs)
    sections['network'] = {'name': 'unet', **fields}
  count, last = network.num_blocks + 1, len(widths) - 1

  def places(level, i):
    attends = size >> level in network.attention_resolutions
    return {
      'down': 1 + level * count + i,
      'up': (last - level) * count + i,
      'after': 2 if attends else 1,
    }

  layers = names.expand(LAYERS, network.num_blocks, len(widths), places=places)
  notes = (ENLARGED,) if flags.large_size else ()
  facts = reader.facts_of((size, size, 3), num_classes)
  return reader.ForeignModel(network, layers, sections, facts, notes)


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

  Pixels are interpolated bilinearly between their centres; H = size.
  """
  shape = (len(low_res), size, size, low_res.shape[-1])
  return jax.image.resize(low_res, shape, 'bilinear', antialias=False)

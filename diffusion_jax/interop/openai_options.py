"""The flags of OpenAI's scripts and of their published checkpoints."""

from types import SimpleNamespace

from diffusion_jax.interop.options import (
  Options,
  complete,
  of_model,
  typed,
)

# The flags of the scripts with the defaults of guided-diffusion; 'improved' in
# MODELS has the defaults of improved-diffusion. A classifier has `classifier`
# and the flags classifier_*, an up-sampler large_size and small_size.
FLAGS: Options = dict(
  image_size=64, large_size=0, small_size=0, num_channels=128,
  num_res_blocks=2, channel_mult=(), num_heads=4, num_head_channels=-1,
  num_heads_upsample=-1, attention_resolutions=(16, 8), dropout=0.0,
  class_cond=False, learn_sigma=False, sigma_small=False,
  use_scale_shift_norm=True, resblock_updown=False,
  use_new_attention_order=False, diffusion_steps=1000, noise_schedule='linear',
  use_kl=False, predict_xstart=False, rescale_timesteps=False,
  rescale_learned_sigmas=False, classifier=False, classifier_width=128,
  classifier_depth=2, classifier_attention_resolutions=(32, 16, 8),
  classifier_use_scale_shift_norm=True, classifier_resblock_updown=True,
  classifier_pool='attention',
)  # fmt: skip

# Fields that all their networks share; and our fields, with the flag for each.
STYLE: Options = dict(
  noise_embedding='openai', downsample_padding='symmetric', norm_eps=1e-5,
  initializer='torch',
)  # fmt: skip
OF_UNET = dict(
  channels='num_channels', num_blocks='num_res_blocks',
  attention_resolutions='attention_resolutions',
  scale_shift='use_scale_shift_norm', resblock_updown='resblock_updown',
  dropout='dropout',
)  # fmt: skip
OF_CLASSIFIER = dict(
  channels='classifier_width', num_blocks='classifier_depth',
  attention_resolutions='classifier_attention_resolutions',
  scale_shift='classifier_use_scale_shift_norm',
  resblock_updown='classifier_resblock_updown',
)  # fmt: skip

# channel_mult by the size of the image, where the flag is empty.
MULTIPLIERS = {
  32: (1, 2, 2, 2),
  64: (1, 2, 3, 4),
  128: (1, 1, 2, 3, 4),
  256: (1, 1, 2, 2, 4, 4),
  512: (0.5, 1, 1, 2, 2, 4, 4),
}
UPSAMPLER_MULTIPLIERS = MULTIPLIERS | {512: (1, 1, 2, 2, 4, 4)}

_IMPROVED = dict(rescale_timesteps=True, rescale_learned_sigmas=True)
_COSINE = dict(
  _IMPROVED, num_res_blocks=3, learn_sigma=True, diffusion_steps=4000,
  noise_schedule='cosine',
)  # fmt: skip
_CIFAR10 = dict(_COSINE, image_size=32, dropout=0.3)
_BEDROOM = dict(
  image_size=256, num_heads=1, learn_sigma=True, use_scale_shift_norm=False,
  attention_resolutions=(16,),
)  # fmt: skip
_GUIDED = dict(
  attention_resolutions=(32, 16, 8), class_cond=True, learn_sigma=True,
  num_channels=256, num_head_channels=64, resblock_updown=True,
)  # fmt: skip
_LSUN = dict(_GUIDED, image_size=256, class_cond=False, dropout=0.1)
_CLASSIFIER = dict(classifier=True)

# The flags of the published checkpoints by the name of their file; and, last,
# the defaults of each project.
MODELS: dict[str, Options] = {
  'cifar10_uncond_50M_500K': _CIFAR10,
  'cifar10_uncond_vlb_50M_500K': dict(_CIFAR10, use_kl=True),
  'imagenet64_uncond_100M_1500K': _COSINE,
  'imagenet64_uncond_vlb_100M_1500K': dict(_COSINE, use_kl=True),
  'imagenet64_cond_270M_250K': dict(
    _COSINE, rescale_timesteps=False, rescale_learned_sigmas=False,
    num_channels=192, class_cond=True,
  ),
  'upsample_cond_500K': dict(
    large_size=256, small_size=64, num_channels=192, learn_sigma=True,
    class_cond=True, diffusion_steps=4000,
  ),
  'lsun_uncond_100M_1200K_bs128': _BEDROOM,
  'lsun_uncond_100M_2400K_bs64': _BEDROOM,
  '64x64_diffusion': dict(
    _GUIDED, image_size=64, num_channels=192, num_res_blocks=3, dropout=0.1,
    noise_schedule='cosine', use_new_attention_order=True,
  ),
  '128x128_diffusion': dict(
    _GUIDED, image_size=128, num_heads=4, num_head_channels=-1
  ),
  '256x256_diffusion': dict(_GUIDED, image_size=256),
  '256x256_diffusion_uncond': dict(_GUIDED, image_size=256, class_cond=False),
  '512x512_diffusion': dict(_GUIDED, image_size=512),
  '64_256_upsampler': dict(
    _GUIDED, large_size=256, small_size=64, num_channels=192,
    num_head_channels=-1,
  ),
  '128_512_upsampler': dict(
    _GUIDED, large_size=512, small_size=128, num_channels=192,
    attention_resolutions=(32, 16),
  ),
  'lsun_bedroom': _LSUN,
  'lsun_cat': _LSUN,
  'lsun_horse': _LSUN,
  'lsun_horse_nodropout': dict(_LSUN, dropout=0.0),
  '64x64_classifier': dict(_CLASSIFIER, image_size=64, classifier_depth=4),
  '128x128_classifier': dict(_CLASSIFIER, image_size=128),
  '256x256_classifier': dict(_CLASSIFIER, image_size=256),
  '512x512_classifier': dict(_CLASSIFIER, image_size=512),
  'guided': {},
  'improved': _IMPROVED,
  'classifier': _CLASSIFIER,
}  # fmt: skip


def choose_flags(model: str, **flags: object) -> SimpleNamespace:
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
    'large_size': '' if fits else (
      'an up-sampler has both flags large_size and small_size, and the first '
      f'is a multiple of the second, {small}'
    ),
    'image_size': '' if multipliers(f) else (
      'give channel_mult, which has a default for '
      f'{", ".join(map(str, MULTIPLIERS))} only'
    ),
  }  # fmt: skip


def image_size(flags: SimpleNamespace) -> int:
  """Returns the height of the images that the network takes."""
  return flags.large_size or flags.image_size


def multipliers(flags: SimpleNamespace) -> tuple[float, ...]:
  """Returns channel_mult, or its default; () if it does not have one."""
  defaults = UPSAMPLER_MULTIPLIERS if flags.large_size else MULTIPLIERS
  return flags.channel_mult or defaults.get(image_size(flags), ())

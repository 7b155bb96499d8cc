r"""JiT-B/16 on ImageNet 256x256 pixels (Li & He 2025): no latents, x_0 itself.

docs/weights.md: 131,123,712 parameters, bfloat16. The release also
has L (network.channels=1024, num_blocks=24, num_heads=16, class_tokens_at=8)
and H (1280, 32, 16, bottleneck=256, class_tokens_at=10, dropout=0.2 in the
middle half of the blocks). At 512x512 it has patch_size=32 and twice the noise,
x_t = (1 - t) x_0 + 2 t eps. schedule.shift=2 has the same log-SNR at every t,
but it is another recipe: x_t is divided by 1 + t, and the squared error of x_0
has the weight ((1 + t) / 2 t)^2 where theirs is 1 / t^2. Not run here yet: not
measured.

  python launch.py --config=configs/imagenet256_jit.py

:64 is JiT-B/4 on ImageNet 64x64: the same 256 patches at a lower resolution, 48
numbers a patch, so that every prediction works there (Li & He 2025, Table 2);
130,477,872 parameters. Not measured.
"""

from configs import imagenet64
from configs.base import section

VARIANTS = ('64',)
OPTIONS = {'positions': 'both', 'norm': 'rms', 'qk_norm': True, 'mlp': 'swiglu'}


def predict_x0(config):
  """Returns the config with JiT's objective, labels and sampler."""
  config.schedule = section('flow')
  config.noise_input = section('time')
  config.parametrization = section('x0')
  config.conditioning = section(labels=True, dropout=0.1)
  config.objective = section(
    'denoising', times=section('logit_normal', mean=0.8, std=0.8), weight='min_flow'
  )
  config.optimizer.b2 = 0.95
  config.sampling.sampler = section('velocity_heun')
  config.sampling.bound = None
  return config


def get_config(arg=''):
  config = predict_x0(imagenet64.at_256())
  config.network = section(
    'dit',
    channels=768,
    num_heads=12,
    patch_size=16,
    bottleneck=128,
    **OPTIONS,
    class_tokens=32,
    class_tokens_at=4,
    dtype='bfloat16',
    remat=True,
  )
  config.noise_input.scale = 1.0
  config.optimizer.warmup_steps = 6255  # 5 epochs
  config.training.num_steps = 750_600  # 600 epochs
  config.training.batch_size = 1024
  config.training.average.more = (0.9996,)
  config.sampling.sampler.min_sigma = 0.05
  config.sampling.num_steps = 50
  # t < 0.9: there sigma / alpha is 9, or a little less by rounding
  config.sampling.guidance = section('classifier_free', scale=2.9, interval=(0.0, 8.9))
  if arg == '64':
    config.data = imagenet64.pixels().data
    config.network.patch_size = 4
  return config

r"""JiT-B/16 on ImageNet 256x256 pixels (Li & He 2025): no latents, x_0 itself.

docs/recipes.md section 14: 131,123,712 parameters, bfloat16. The release also
has L (network.channels=1024, num_blocks=24, num_heads=16, class_tokens_at=8)
and H (1280, 32, 16, bottleneck=256, class_tokens_at=10, dropout=0.2 in the
middle half of the blocks). At 512x512 it has patch_size=32 and twice the noise,
x_t = (1 - t) x_0 + 2 t eps. schedule.shift=2 has the same log-SNR at every t,
but it is another recipe: x_t is divided by 1 + t, and the squared error of x_0
has the weight ((1 + t) / 2 t)^2 where theirs is 1 / t^2. Not run here yet: not
measured.

  python launch.py --config=configs/imagenet256_jit.py
"""

from configs import base, imagenet256_dit


def predict_x0(config):
  """Returns the config with JiT's objective, labels and sampler."""
  config.schedule.name = 'flow'
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  config.conditioning.noise_input = 'time'
  config.objective.parametrization = 'x0'
  config.objective.weight = 'min_flow'
  config.objective.times = 'logit_normal'
  config.objective.logit_normal_mean = 0.8
  config.objective.logit_normal_std = 0.8
  config.optimizer.b2 = 0.95
  config.sampling.sampler = 'velocity_heun'
  config.sampling.clip = False
  return config


def shared():
  """JiT's network, objective and training."""
  config = predict_x0(imagenet256_dit.pixels())
  config.network.name = 'dit'
  config.network.channels = 768
  config.network.num_blocks = 12
  config.network.num_heads = 12
  config.network.patch_size = 16
  config.network.bottleneck = 128
  config.network.positions = 'both'
  config.network.norm = 'rms'
  config.network.qk_norm = True
  config.network.mlp = 'swiglu'
  config.network.class_tokens = 32
  config.network.class_tokens_at = 4
  config.network.dtype = 'bfloat16'
  config.network.remat = True
  config.conditioning.time_scale = 1.0
  config.optimizer.learning_rate = 2e-4
  config.optimizer.warmup_steps = 6255  # 5 epochs
  config.training.num_steps = 750_600  # 600 epochs
  config.training.batch_size = 1024
  config.training.more_ema_decays = (0.9996,)
  config.sampling.num_steps = 50
  config.sampling.min_sigma = 0.05
  config.sampling.guidance_scale = 2.9
  # t < 0.9: there sigma / alpha is 9, or a little less by rounding
  config.sampling.guidance_max = 8.9
  return config


def get_config(arg=''):
  return base.with_argument(shared(), arg)

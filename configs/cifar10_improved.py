r"""Improved DDPM on CIFAR-10 (Nichol & Dhariwal 2021): the hybrid objective.

docs/recipes.md section 3: 52,546,438 parameters, T = 4000, cosine, learned
variance, 500k steps of batch 128. Not measured yet. The second command trains
the paper's L_vlb model.

  python launch.py --config=configs/cifar10_improved.py
  python launch.py --config=configs/cifar10_improved.py --workdir=runs/vlb \
    --config.objective.name=vlb --config.objective.times=loss_aware
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.data.random_flip = False  # the release has no augmentation
  config.schedule.name = 'cosine'
  config.schedule.num_steps = 4000
  config.network.num_blocks = 3
  config.network.attention_resolutions = (16, 8)
  config.network.num_heads = 4
  config.network.dropout = 0.3
  config.network.qkv = 'legacy'
  config.network.scale_shift = True
  config.network.downsample_padding = 'symmetric'
  config.network.norm_eps = 1e-5
  config.network.noise_embedding = 'openai'
  config.network.initializer = 'torch'
  config.network.learned_variance = True
  config.conditioning.noise_input = 'rescaled_step'
  config.objective.name = 'hybrid'
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 0
  config.optimizer.clip_norm = 0.0
  config.training.num_steps = 500_000
  config.sampling.variance = 'learned'
  config.sampling.num_steps = 4000
  return base.with_argument(config, arg)

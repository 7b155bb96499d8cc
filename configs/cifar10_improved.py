r"""Improved DDPM on CIFAR-10 (Nichol & Dhariwal 2021): the hybrid objective.

52,546,438 parameters, T = 4000, cosine, learned variance; dropout 0.3, 500k
steps of batch 128. The paper's L_vlb model is the second command. Not measured
yet.

  python launch.py --config=configs/cifar10_improved.py
  python launch.py --config=configs/cifar10_improved.py --workdir=runs/vlb \
    --config.objective.name=vlb --config.objective.times=loss_aware
  python launch.py --config=configs/cifar10_improved.py --mode=sample
  python launch.py --config=configs/cifar10_improved.py:smoke
"""

from configs import base


def get_config(arg=''):
  """The network of the paper's CIFAR-10 models, docs/recipes.md section 3."""
  config = base.get_config()
  config.data.name = 'cifar10'
  config.data.num_classes = 10
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
  config.optimizer.clip_norm = 0.0

  config.training.num_steps = 500_000
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000

  config.sampling.variance = 'learned'
  config.sampling.num_steps = 4000
  return base.with_argument(config, arg)

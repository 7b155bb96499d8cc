r"""Improved DDPM on CIFAR-10 (Nichol & Dhariwal 2021): the hybrid objective.

docs/weights.md: 52,546,438 parameters, T = 4000, cosine, learned
variance, 500k steps of batch 128. Not measured yet. The second command trains
the paper's L_vlb model.

  python launch.py --config=configs/cifar10_improved.py
  python launch.py --config=configs/cifar10_improved.py --workdir=runs/vlb \
    --config.objective.name=vlb --config.objective.times=loss_aware
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.schedule = section('cosine', num_steps=4000)
  config.network = section(
    'unet',
    num_blocks=3,
    attention_resolutions=(16, 8),
    num_heads=4,
    dropout=0.3,
    qkv='legacy',
    scale_shift=True,
    downsample_padding='symmetric',
    norm_eps=1e-5,
    noise_embedding='openai',
    initializer='torch',
  )
  config.noise_input = section('rescaled_step')
  config.objective = section('hybrid')
  config.optimizer.update(learning_rate=1e-4, warmup_steps=0, clip_norm=0.0)
  config.training.random_flip = False  # the release has no augmentation
  config.training.num_steps = 500_000
  config.sampling.sampler = section('ancestral', variance='learned')
  config.sampling.num_steps = 4000
  return config

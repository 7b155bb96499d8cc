r"""EDM on CIFAR-10 (Karras et al. 2022): DDPM++, non-leaky augmentation.

The published recipe: 55.7M parameters, 200M images in batches of 512; FID 1.97
without labels and 1.79 with them in the paper. Not trained here yet: not
measured. docs/networks.md relates the fields to the numbers of the paper.

  python launch.py --config=configs/cifar10_edm.py
  python launch.py --config=configs/cifar10_edm.py:conditional    # with labels
  python launch.py --config=configs/cifar10_edm.py:conditional_smoke
"""

from configs import base, cifar10
from configs.base import section

VARIANTS = ('conditional',)


def get_config(arg=''):
  config = base.edm(cifar10.shared())
  config.network = section('ddpmpp', dropout=0.13)
  config.conditioning = section(labels=arg == 'conditional', augment=0.12)
  config.optimizer.update(
    learning_rate=1e-3,
    warmup_steps=19_531,  # 10M images
    clip_norm=0.0,
    # The release has 1e-8 for a loss that is summed over pixels and channels.
    eps=1e-8 / (32 * 32 * 3),
    repair_gradients=True,
  )
  config.training.random_flip = False  # flips are part of the augmentation
  config.training.num_steps = 390_625  # 200M images
  config.training.batch_size = 512
  config.training.average = section('half_life', images=500_000.0, rampup=0.05)
  return config

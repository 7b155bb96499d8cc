r"""EDM on CIFAR-10 (Karras et al. 2022): DDPM++, non-leaky augmentation.

The published recipe: 55.7M parameters, 200M images in batches of 512; FID 1.97
without labels and 1.79 with them in the paper. Not trained here yet: not
measured. docs/edm.md relates the fields to the numbers of the paper.

  python launch.py --config=configs/cifar10_edm.py
  python launch.py --config=configs/cifar10_edm.py:conditional    # with labels
  python launch.py --config=configs/cifar10_edm.py:conditional_smoke
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.data.random_flip = False  # flips are part of the augmentation
  config.schedule.name = 'karras'
  config.network.name = 'ddpmpp'
  config.network.dropout = 0.13
  config.conditioning.noise_input = 'edm'
  config.conditioning.labels = arg.startswith('conditional')
  config.objective.parametrization = 'edm'
  config.objective.weight = 'edm'
  config.objective.times = 'log_normal'
  config.objective.augment = 0.12
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 19_531  # 10M images
  config.optimizer.clip_norm = 0.0
  # The release has 1e-8 for a loss that is summed over pixels and channels.
  config.optimizer.eps = 1e-8 / (32 * 32 * 3)
  config.optimizer.repair_gradients = True
  config.training.num_steps = 390_625  # 200M images
  config.training.batch_size = 512
  config.training.ema_half_life = 500_000.0  # images
  config.training.ema_rampup = 0.05
  config.sampling.sampler = 'heun'  # 35 calls of the network
  config.sampling.num_steps = 18
  config.sampling.clip = False
  return base.with_argument(config, arg, variants=('conditional',))

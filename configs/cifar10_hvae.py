r"""A Markov hierarchical VAE of CIFAR-10: z_1, z_2, z_3 of 8x8x8 each.

The recipe of digits_hvae.py, larger; none is published. Not trained here yet:
not measured.

  python launch.py --config=configs/cifar10_hvae.py
  python launch.py --config=configs/cifar10_hvae.py --mode=evaluate
"""

from configs import base, cifar10_vae


def get_config(arg=''):
  config = cifar10_vae.get_config()
  config.network.name = 'hierarchical'
  config.network.latent_dim = None
  config.network.latent_channels = 8
  config.network.multipliers = (1, 2, 4)
  config.network.num_blocks = 2
  config.objective.name = 'hvae'
  return base.with_argument(config, arg)

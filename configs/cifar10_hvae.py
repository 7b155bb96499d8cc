r"""A Markov hierarchical VAE of CIFAR-10: z_1, z_2, z_3 of 8x8x8 each.

The recipe of digits_hvae.py, larger; none is published. Not trained here yet:
not measured.

  python launch.py --config=configs/cifar10_hvae.py
  python launch.py --config=configs/cifar10_hvae.py --mode=evaluate
"""

from configs import cifar10_vae
from configs.base import section


def get_config():
  config = cifar10_vae.get_config()
  config.network = section(
    'hierarchical',
    latent_channels=8,
    multipliers=(1, 2, 4),
    num_blocks=2,
    attention_resolutions=(8,),
    dropout=0.1,
  )
  config.objective = section('hvae', kl_warmup=5000)
  return config

r"""Latent diffusion on CIFAR-10 (Rombach et al. 2022), class-conditional.

The U-Net of Ho et al. on two resolutions, in the 8x8x4 latents of the run of
cifar10_autoencoder.py, which is trained first (`:smoke` needs its smoke run).
Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_autoencoder.py
  python launch.py --config=configs/cifar10_latent.py
  python launch.py --config=configs/cifar10_latent.py --mode=sample \
    --config.sampling.guidance.scale=1.5
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.latent = section('autoencoder', run='runs/cifar10_autoencoder', shape=(8, 8, 4))
  config.network = section('unet', multipliers=(1, 2), attention_resolutions=(8, 4), dropout=0.1)
  config.conditioning = section(labels=True, dropout=0.1)
  config.training.num_steps = 400_000
  config.sampling.sampler = section('ddim', eta=1.0)
  config.sampling.num_steps = 250
  config.sampling.bound = None  # latents are not within [-1, 1]
  return config

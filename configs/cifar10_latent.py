r"""Latent diffusion on CIFAR-10 (Rombach et al. 2022), class-conditional.

The U-Net of Ho et al. on two resolutions, in the 8x8x4 latents of the run of
cifar10_autoencoder.py, which is trained first (`:smoke` needs its smoke run).
Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_autoencoder.py
  python launch.py --config=configs/cifar10_latent.py
  python launch.py --config=configs/cifar10_latent.py --mode=sample \
    --config.sampling.guidance_scale=1.5
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.latent.run = 'runs/cifar10_autoencoder'
  config.latent.shape = (8, 8, 4)
  config.network.multipliers = (1, 2)
  config.network.attention_resolutions = (8, 4)
  config.network.dropout = 0.1
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  config.training.num_steps = 400_000
  config.sampling.sampler = 'ddim'
  config.sampling.eta = 1.0
  config.sampling.num_steps = 250
  config.sampling.clip = False  # latents are not within [-1, 1]
  return base.with_argument(config, arg)

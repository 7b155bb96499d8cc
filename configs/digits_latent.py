r"""Latent diffusion on the digits (Rombach et al. 2022), class-conditional.

digits.py in the 4x4x4 latents of the run of digits_autoencoder.py, which is
trained first (`:smoke` needs its smoke run); 700,420 parameters. Measured on 2
busy CPU cores: 4 min 30 s after the autoencoder's 3 min; 96.6 % +- 0.8 of 500
samples are classified as the requested class (see digits.py), and all of them
with guidance of scale 2.

  python launch.py --config=configs/digits_autoencoder.py
  python launch.py --config=configs/digits_latent.py
"""

from configs import digits
from configs.base import section


def get_config():
  config = digits.conditional()
  config.latent = section('autoencoder', run='runs/digits_autoencoder', shape=(4, 4, 4))
  config.network.update(channels=64, multipliers=(1,))
  config.optimizer.learning_rate = 2e-3
  config.training.update(num_steps=3000, sample_every=1000, checkpoints=section(every=1000))
  config.sampling.bound = None  # latents are not within [-1, 1]
  return config

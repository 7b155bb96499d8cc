r"""A KL autoencoder of the digits: latents for diffusion (Rombach et al. 2022).

Latents of 4x4x4, a KL of little weight; 234,698 parameters. Measured on 2 CPU
cores: 1 min 7 s of training steps. From the mean of q(z | x), 99.3 % of the
pixels of the test digits are decoded to their grey level of 17. Samples of the
prior are noise; a diffusion model of the latents replaces it
(docs/networks.md).

  python launch.py --config=configs/digits_autoencoder.py
"""

from configs import digits
from configs.base import section


def get_config():
  config = digits.shared()
  config.network = section('autoencoder', channels=32, multipliers=(1, 2), num_groups=8)
  config.objective = section('vae', beta=0.01)
  config.optimizer.weight_decay = 0.01
  config.training.held_out.batches = 45  # 8 times the 360 images
  config.training.band = 'configs/bands/digits_autoencoder.json'
  return config

r"""A Markov hierarchical VAE of the digits, T = 3: bits per dimension.

z_1, z_2, z_3 of 4x4x2 each; 542,294 parameters. Measured on 2 CPU cores: 2 min
7 s of training steps; on the test split 1.820 bits/dim by the ELBO, 1.735 with
100 importance weights, where a histogram of each pixel alone has 2.424. The KL
of z_1, z_2, z_3 is 0.000, 0.092, 0.283 (docs/networks.md).

  python launch.py --config=configs/digits_hvae.py
  python launch.py --config=configs/digits_hvae.py --mode=evaluate
"""

from configs import digits_vae
from configs.base import section


def get_config():
  config = digits_vae.get_config()
  config.network = section(
    'hierarchical', channels=32, multipliers=(1, 2), num_groups=8, latent_channels=2, dropout=0.1
  )
  config.objective = section('hvae')
  config.training.update(num_steps=3000, band='')
  return config

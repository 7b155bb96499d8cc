r"""A variational autoencoder of the digits: bits per dimension.

A vector of 16 latents, a logistic for each pixel; 277,922 parameters. Measured
on 2 CPU cores: 58 s of training steps; on the test split 1.813 bits/dim by the
ELBO, 1.740 with 100 importance weights, where a histogram of each pixel alone
has 2.424 (docs/evaluation.md).

  python launch.py --config=configs/digits_vae.py
  python launch.py --config=configs/digits_vae.py --mode=evaluate
"""

from configs import digits_autoencoder
from configs.base import section


def get_config():
  config = digits_autoencoder.get_config()
  config.network.update(latent_dim=16, dropout=0.2)
  config.objective = section('vae')
  config.training.update(num_steps=2500, held_out=section(every=250))
  config.training.band = 'configs/bands/digits_vae.json'
  config.training.checkpoints = section(every=250, best=section('lowest'))
  config.evaluation.metrics = ('elbo', 'iw')
  config.sampling.checkpoint = 'best'
  return config

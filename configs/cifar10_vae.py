r"""A variational autoencoder of CIFAR-10, whose latent is a vector of 256.

A logistic for each channel of a pixel. The recipe of digits_vae.py, larger;
none is published. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_vae.py
  python launch.py --config=configs/cifar10_vae.py --mode=evaluate
"""

from configs import cifar10_autoencoder
from configs.base import section


def get_config():
  config = cifar10_autoencoder.get_config()
  config.network = section(
    'autoencoder', latent_dim=256, multipliers=(1, 2, 4, 4), attention_resolutions=(8,), dropout=0.1
  )
  config.objective = section('vae', kl_warmup=5000)
  config.training.checkpoints.best = section('lowest')
  config.evaluation.metrics = ('elbo', 'iw')
  config.sampling.checkpoint = 'best'
  return config

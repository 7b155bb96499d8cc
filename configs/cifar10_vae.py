r"""A variational autoencoder of CIFAR-10, whose latent is a vector of 256.

A logistic for each channel of a pixel. The recipe of digits_vae.py, larger;
none is published. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_vae.py
  python launch.py --config=configs/cifar10_vae.py --mode=evaluate
"""

from configs import base, cifar10_autoencoder


def get_config(arg=''):
  config = cifar10_autoencoder.get_config()
  config.network.latent_dim = 256
  config.network.channels = None
  config.network.multipliers = (1, 2, 4, 4)
  config.network.num_blocks = None
  config.network.dropout = 0.1
  config.objective.beta = None
  config.objective.kl_warmup = 5000
  config.training.keep_best = 1
  config.evaluation.metrics = ('elbo', 'iw')
  config.sampling.checkpoint = 'best'
  return base.with_argument(config, arg)

r"""A variational autoencoder of CIFAR-10, a latent vector: the plain VAE.

The recipe of digits_vae.py, larger; no published one. Not trained here yet: not
measured.

  python -m diffusion_jax.data.prepare cifar10       # where there is a network
  python launch.py --config=configs/cifar10_vae.py
  python launch.py --config=configs/cifar10_vae.py --mode=sample
  python launch.py --config=configs/cifar10_vae.py --mode=evaluate \
    --config.evaluation.metrics=elbo,iw
  python launch.py --config=configs/cifar10_vae.py:smoke # synthetic pictures
"""

from configs import base, cifar10


def get_config(arg=''):
  """A latent vector of 256 numbers, a logistic for every channel of a pixel."""
  config = cifar10.shared()
  config.network.name = 'autoencoder'
  config.network.latent_dim = 256
  config.network.multipliers = (1, 2, 4, 4)
  config.network.attention_resolutions = (8,)
  config.network.dropout = 0.1

  config.objective.name = 'vae'
  config.objective.kl_warmup = 5000

  config.training.num_steps = 100_000
  config.training.ema_decay = 0.9995
  config.training.ema_warmup = True
  config.training.keep_best = 1
  config.training.evaluate_every = 5000
  config.training.evaluate_batches = 79  # all 10,000 images
  config.evaluation.metrics = ('elbo', 'iw')

  config.sampling.checkpoint = 'best'

  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 1000
  config.optimizer.decay = 'cosine'
  config.optimizer.decay_steps = config.training.get_oneway_ref('num_steps')
  config.optimizer.weight_decay = 0.01
  return base.with_argument(config, arg)

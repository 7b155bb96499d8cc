r"""A variational autoencoder of the digits: bits per dimension.

python launch.py --config=configs/digits_vae.py
python launch.py --config=configs/digits_vae.py --mode=sample
python launch.py --config=configs/digits_vae.py --mode=evaluate \
  --config.evaluation.metrics=elbo,iw
python launch.py --config=configs/digits_vae.py:smoke      # seconds

Measured on 2 CPU cores: 58 s of training steps; on the test split 1.813
bits/dim by the ELBO, 1.740 with 100 importance weights, where a histogram of
every pixel by itself has 2.424 (docs/vae.md).
"""

from configs import base, digits


def get_config(arg=''):
  """A vector of 16 latents, a logistic for every pixel; 277,922 parameters."""
  config = digits.shared()
  config.network.name = 'autoencoder'
  config.network.latent_dim = 16
  config.network.channels = 32
  config.network.multipliers = (1, 2)
  config.network.num_groups = 8
  config.network.dropout = 0.2

  config.objective.name = 'vae'

  config.training.num_steps = 2500
  config.training.checkpoint_every = 250
  config.training.keep_best = 1
  config.training.evaluate_every = 250
  config.training.evaluate_batches = 45  # 8 times the 360 images
  config.evaluation.metrics = ('elbo', 'iw')

  config.sampling.checkpoint = 'best'

  config.optimizer.weight_decay = 0.01
  return base.with_argument(config, arg)

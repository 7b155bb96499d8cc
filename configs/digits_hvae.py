r"""A Markov hierarchical VAE of the digits, T = 3: bits per dimension.

python launch.py --config=configs/digits_hvae.py
python launch.py --config=configs/digits_hvae.py --mode=sample
python launch.py --config=configs/digits_hvae.py --mode=evaluate \
  --config.evaluation.metrics=elbo,iw
python launch.py --config=configs/digits_hvae.py:smoke      # seconds

Measured on 2 CPU cores: 2 min 7 s of training steps; on the test split
1.820 bits/dim by the ELBO, 1.735 with 100 importance weights, where a
histogram of every pixel by itself has 2.424. KL of z_1, z_2, z_3: 0.000,
0.092, 0.283 (docs/vae.md).
"""

from configs import base, digits


def get_config(arg=''):
  """z_1, z_2, z_3 of 4x4x2 each, logistic pixels; 542,294 parameters."""
  config = digits.shared()
  config.network.name = 'hierarchical'
  config.network.latent_channels = 2
  config.network.channels = 32
  config.network.multipliers = (1, 2)
  config.network.num_groups = 8
  config.network.dropout = 0.1

  config.objective.name = 'hvae'

  config.training.num_steps = 3000
  config.training.checkpoint_every = 250
  config.training.keep_best = 1
  config.training.evaluate_every = 250
  config.training.evaluate_batches = 45  # 8 times the 360 images
  config.evaluation.metrics = ('elbo', 'iw')

  config.sampling.checkpoint = 'best'

  config.optimizer.weight_decay = 0.01
  return base.with_argument(config, arg)

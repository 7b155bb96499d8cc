r"""A KL autoencoder of the digits: latents for diffusion (Rombach et al. 2022).

python launch.py --config=configs/digits_autoencoder.py
python launch.py --config=configs/digits_autoencoder.py --mode=sample
python launch.py --config=configs/digits_autoencoder.py:smoke      # seconds

Measured on 2 CPU cores: 1 min 7 s of training steps; from the mean of q(z | x)
99.3 % of the pixels of the test digits come back with their grey level of 17.
Samples of the prior are noise: that is left to a diffusion model of the latents
(docs/vae.md).
"""

from configs import base, digits


def get_config(arg=''):
  """Latents of 4x4x4, a KL of little weight; 234,698 parameters."""
  config = digits.shared()
  config.network.name = 'autoencoder'
  config.network.channels = 32
  config.network.multipliers = (1, 2)
  config.network.num_groups = 8

  config.objective.name = 'vae'
  config.objective.beta = 0.01

  config.training.num_steps = 3000
  config.training.evaluate_every = 500
  config.training.evaluate_batches = 45  # 8 times the 360 images

  config.optimizer.weight_decay = 0.01
  return base.with_argument(config, arg)

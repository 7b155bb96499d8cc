r"""Volumes of real numbers [8, 8, 8, 1]: a U-Net of three dimensions.

8x8x8 points of a Gaussian process. Nothing has been measured yet.

  python launch.py --config=configs/volumes.py
"""

from configs import gp_sequences
from configs.base import section


def get_config():
  config = gp_sequences.get_config()
  config.data = section(
    'gaussian_process', sides=(8, 8, 8), length=6.0, fresh=True
  )
  config.network = section(
    'unet',
    channels=16,
    multipliers=(1, 2),
    num_blocks=1,
    num_groups=8,
    attention_resolutions=(64,),
  )
  config.training.num_steps = 1000
  config.training.batch_size = 32
  config.training.evaluate_every = 500
  config.training.sample_every = 500
  return config

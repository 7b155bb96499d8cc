r"""Volumes of real numbers [8, 8, 8, 1]: a U-Net of three dimensions.

python launch.py --config=configs/volumes.py
"""

from configs import fields
from configs.base import section


def get_config():
  config = fields.get_config()
  config.data = section(
    'gaussian_process', sides=(8, 8, 8), length=6.0, fresh=True
  )
  config.network.update(channels=16, attention_resolutions=(64,))
  config.training.num_steps = 1000
  config.training.batch_size = 32
  return config

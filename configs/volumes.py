r"""Volumes of real numbers [8, 8, 8, 1]: a U-Net of three dimensions.

8x8x8 points of a Gaussian process; a U-Net of 444,689 parameters. Measured on
two shared CPU cores, after 800 of the 1,000 steps, where the training was
stopped: in 500 samples with 25 steps the standard deviation is 0.90 (exact: 1;
0.79 to 1.04 at single points), the correlation is at most 0.14 from the kernel
at any lag of an axis (500 exact draws: 0.020).

  python launch.py --config=configs/volumes.py
"""

from configs import gp_sequences
from configs.base import section


def get_config():
  config = gp_sequences.get_config()
  config.data = section('gaussian_process', sides=(8, 8, 8), length=6.0, fresh=True)
  config.network = section(
    'unet', channels=16, multipliers=(1, 2), num_blocks=1, num_groups=8, attention_resolutions=(64,)
  )
  config.training.update(num_steps=1000, batch_size=32, sample_every=500)
  config.training.held_out = section(every=500)
  return config

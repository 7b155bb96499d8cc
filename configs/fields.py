r"""Fields of two correlated channels of real numbers: a transformer of arrays.

16x16 points of a Gaussian process, channels in units of 280 +- 10 and 0 +-
0.002, correlated by 0.6; a DiT of 257,184 parameters. Measured on two shared
CPU cores: 5 min. In 4,000 samples the standard deviation is 0.947 of the exact
one (0.896 to 1.036 at single points), the correlation is at most 0.069 from the
kernel at any lag of an axis (4,000 exact draws: 0.009), and the channels at a
point are correlated by 0.586. `python -m benchmarks.arrays` measures this.

  python launch.py --config=configs/fields.py
"""

from configs import gp_sequences
from configs.base import section


def get_config():
  config = gp_sequences.get_config()
  config.data = section(
    'gaussian_process',
    sides=(16, 16),
    length=6.0,
    mean=(280.0, 0.0),
    std=(10.0, 2e-3),
    correlation=0.6,
    fresh=True,
  )
  config.training.num_steps = 3000
  return config

r"""Fields of two correlated channels of real numbers: a transformer of arrays.

16x16 points of a Gaussian process, channels in units of 280 +- 10 and 0 +-
0.002, correlated by 0.6. Only the trial, :smoke, has been run so far.

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

r"""A table of your own: vectors of real numbers in an npz or CSV file.

x [N, D] is learnt, given `context` [N, ...] if the file has one; EDM with a
perceptron, for 2 numbers 347,266 parameters. docs/arrays.md has the names in a
file and what to change: data.bounds for a box, weight_decay where the held-out
loss rises.

  python launch.py --config=configs/vectors.py --config.data.path=table.npz
  python launch.py --config=configs/vectors.py --config.data=csv \
    --config.data.path=houses.csv --config.data.x=price --config.data.context=rooms \
    --config.data.test_fraction=0.1
  python launch.py --config=runs/vectors --mode=sample
"""

from configs import two_moons
from configs.base import section


def get_config():
  config = two_moons.get_config()
  config.data = section('npz', test_fraction=0.1)
  config.conditioning.context = 'if_any'
  return config

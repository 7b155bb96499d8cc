r"""Class-conditional DDPM on CIFAR-10, for guidance without a classifier.

cifar10.py, told the class, which a tenth of the images hide: Ho & Salimans
(2022) hide 10 to 50 %. 35,751,939 parameters. Not trained here yet: not
measured.

  python launch.py --config=configs/cifar10_conditional.py
  python launch.py --config=configs/cifar10_conditional.py --mode=sample \
    --config.sampling.guidance_scale=1.5
  python launch.py --config=configs/cifar10_conditional.py:smoke
"""

from configs import base, cifar10


def get_config(arg=''):
  """cifar10.py with labels and the null class."""
  config = cifar10.get_config()
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  return base.with_argument(config, arg)

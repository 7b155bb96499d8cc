r"""Class-conditional DDPM on CIFAR-10, for guidance without a classifier.

The label of a tenth of the images is dropped; Ho & Salimans (2022) drop 10 to
50 %. 35,751,939 parameters. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_conditional.py
  python launch.py --config=configs/cifar10_conditional.py --mode=sample \
    --config.sampling.guidance_scale=1.5
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.get_config()
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  return base.with_argument(config, arg)

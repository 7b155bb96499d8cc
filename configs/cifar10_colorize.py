r"""Palette (Saharia et al. 2022) on CIFAR-10: colours of a grey picture.

The network of cifar10.py, which is also given the picture in grey. Not measured
yet.

  python launch.py --config=configs/cifar10_colorize.py
  python launch.py --config=configs/cifar10_colorize.py --mode=edit \
    --config.edit.task=colorize --config.edit.image=photo.png
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.get_config()
  config.conditioning.image = 'colorize'
  return base.with_argument(config, arg)

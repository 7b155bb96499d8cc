r"""Palette (Saharia et al. 2022) on CIFAR-10: colours. Not measured yet.

  python launch.py --config=configs/cifar10_colorize.py
  python launch.py --config=configs/cifar10_colorize.py --mode=edit \
    --config.edit.task=colorize --config.edit.image=photo.png
  python launch.py --config=configs/cifar10_colorize.py:smoke

DDPM's network, told of the picture in grey.
"""

from configs import base, cifar10


def get_config(arg=''):
  """cifar10.py with conditioning.image='colorize'."""
  config = cifar10.get_config()
  config.conditioning.image = 'colorize'
  return base.with_argument(config, arg)

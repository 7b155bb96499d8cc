r"""Palette (Saharia et al. 2022) on CIFAR-10: inpainting. Not measured yet.

  python launch.py --config=configs/cifar10_inpainting.py
  python launch.py --config=configs/cifar10_inpainting.py --mode=edit \
    --config.edit.image=photo.png --config.edit.mask=mask.png
  python launch.py --config=configs/cifar10_inpainting.py:smoke

DDPM's network, told of the known pixels and where they are.
"""

from configs import base, cifar10


def get_config(arg=''):
  """cifar10.py with conditioning.image='inpaint'."""
  config = cifar10.get_config()
  config.conditioning.image = 'inpaint'
  return base.with_argument(config, arg)

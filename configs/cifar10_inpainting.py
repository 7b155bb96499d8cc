r"""Palette (Saharia et al. 2022) on CIFAR-10: inpainting.

The network of cifar10.py, which is also given the known pixels and their mask.
Not measured yet.

  python launch.py --config=configs/cifar10_inpainting.py
  python launch.py --config=configs/cifar10_inpainting.py --mode=edit \
    --config.edit.image=photo.png --config.edit.mask=mask.png
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.get_config()
  config.conditioning.image = 'inpaint'
  return base.with_argument(config, arg)

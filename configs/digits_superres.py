r"""Super-resolution of the digits, 4x4 -> 8x8, without labels.

The network of digits.py, which is also given the means over 2x2 pixels (as in
SR3, Saharia et al. 2021).

  python launch.py --config=configs/digits_superres.py
  python launch.py --config=configs/digits_superres.py --mode=edit \
    --config.edit.task=superres --config.edit.image=small.png
"""

from configs import base, digits_inpainting


def get_config(arg=''):
  config = digits_inpainting.get_config()
  config.conditioning.image = 'superres'
  return base.with_argument(config, arg)

r"""Palette (Saharia et al. 2022) on the digits: inpainting, without labels.

The network of digits.py, which is also given the known pixels and their mask:
701,921 parameters. Measured: the lower half of each of the 360 test digits was
filled in, and a classifier that reads 99.4 % of the digits themselves reads
81.7 % +- 2.0 of the results as the original class (docs/inpainting.md).

  python launch.py --config=configs/digits_inpainting.py
  python launch.py --config=configs/digits_inpainting.py --mode=edit \
    --config.edit.image=digit.png --config.edit.mask=mask.png
"""

from configs import base, digits


def get_config(arg=''):
  config = digits.get_config()
  config.conditioning.labels = False
  config.conditioning.dropout = 0.0
  config.conditioning.image = 'inpaint'
  return base.with_argument(config, arg)

r"""Palette (Saharia et al. 2022) on the digits: inpainting, without labels.

python launch.py --config=configs/digits_inpainting.py
python launch.py --config=configs/digits_inpainting.py --mode=sample
python launch.py --config=configs/digits_inpainting.py --mode=edit \
  --config.edit.image=digit.png --config.edit.mask=mask.png
python launch.py --config=configs/digits_inpainting.py:smoke      # seconds

The network of digits.py, told of the known pixels and where they are; see
docs/inpainting.md for what it makes of the lower halves of digits.
"""

from configs import base, digits


def get_config(arg=''):
  """digits.py with conditioning.image='inpainting' instead of labels."""
  config = digits.get_config()
  config.conditioning.labels = False
  config.conditioning.label_dropout = 0.0
  config.conditioning.image = 'inpainting'
  return base.with_argument(config, arg)

r"""Super-resolution of the digits, 4x4 -> 8x8, without labels.

python launch.py --config=configs/digits_superres.py
python launch.py --config=configs/digits_superres.py --mode=sample
python launch.py --config=configs/digits_superres.py --mode=edit \
  --config.edit.task=superres --config.edit.image=small.png
python launch.py --config=configs/digits_superres.py:smoke      # seconds

The network of digits.py, told of the means over 2x2 pixels (as SR3, Saharia et
al. 2021).
"""

from configs import base, digits


def get_config(arg=''):
  """digits.py with conditioning.image='superres' instead of labels."""
  config = digits.get_config()
  config.conditioning.labels = False
  config.conditioning.dropout = 0.0
  config.conditioning.image = 'superres'
  return base.with_argument(config, arg)

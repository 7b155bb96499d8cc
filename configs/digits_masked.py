r"""Masked diffusion of the digits' 17 grey levels (MD4, Shi et al. 2024).

Continuous time, linear masking; a U-Net of 715,762 parameters. Measured on 2
busy CPU cores: 8 min 30 s, 1.740 +- 0.014 bits per dimension on the 360 test
digits (docs/discrete.md). :labels is conditioned on the class, for guidance.

  python launch.py --config=configs/digits_masked.py
  python launch.py --config=configs/digits_masked.py --mode=evaluate
  python launch.py --config=configs/digits_masked.py --mode=sample \
    --config.sampling.sampler=first_hitting
"""

from configs import digits
from configs.base import section

VARIANTS = ('labels',)


def get_config(arg=''):
  config = digits.shared()
  config.schedule = section('polynomial_masking')
  config.network.update(num_blocks=1, attention_resolutions=(4,), dropout=0.1)
  config.noise_input = section('time')
  config.objective = section('masked')
  config.training.num_steps = 2500
  config.training.held_out.batches = 45  # 8 times the 360 images
  if arg == 'labels':
    config.conditioning = section(labels=True, dropout=0.1)
  return config

r"""Variational diffusion on the digits (Kingma et al. 2021), in bits/dim.

Continuous time, both ends of gamma learned; 747,075 parameters. test_loss in
metrics.jsonl is the bound on the 360 test digits in bits per dimension.
Measured on 2 CPU cores: 8 min 17 s, 1.72 (diffusion 1.697, prior 0.003,
reconstruction 0.015), where a histogram of each pixel alone has 2.42.

  python launch.py --config=configs/digits_vdm.py
"""

from configs import digits
from configs.base import section


def get_config():
  config = digits.shared()
  # sigma = 0.018 at t = 0; grey levels are 0.125 apart
  config.schedule = section('learned', gamma_min=-8.0)
  config.network = section(
    'vdm',
    channels=48,
    num_layers=4,
    num_groups=8,
    fourier=(2, 4),  # a period of two grey levels, and of one
  )
  config.noise_input = section('logsnr')
  config.objective = section('vdm')
  config.optimizer.update(b2=0.99, weight_decay=0.01)
  config.training.held_out.batches = 45  # 8 times the 360 images
  config.evaluation.elbo = section(decoder='categorical')
  config.evaluation.ode = section(t_min=0.0, dequantization='gaussian')
  config.sampling.update(bound=None, num_steps=250)
  return config

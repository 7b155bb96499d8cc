r"""Variational diffusion on the digits (Kingma et al. 2021), in bits/dim.

Continuous time, both ends of gamma learned; 747,075 parameters. test_loss in
metrics.jsonl is the bound on the 360 test digits in bits per dimension.
Measured on 2 CPU cores: 8 min 17 s, 1.72 (diffusion 1.697, prior 0.003,
reconstruction 0.015), where a histogram of each pixel alone has 2.42.

  python launch.py --config=configs/digits_vdm.py
"""

from configs import base, digits


def get_config(arg=''):
  config = digits.shared()
  config.schedule.name = 'learned'
  config.schedule.gamma_min = -8.0  # sigma = 0.018; grey levels are 0.125 apart
  config.network.name = 'vdm'
  config.network.channels = 48
  config.network.multipliers = None
  config.network.num_blocks = 4
  config.network.fourier = (2, 4)  # a period of two grey levels, and of one
  config.conditioning.noise_input = 'logsnr'
  config.objective.name = 'vdm'
  config.optimizer.b2 = 0.99
  config.optimizer.weight_decay = 0.01
  config.training.evaluate_batches = 45  # 8 times the 360 images
  config.evaluation.decoder = 'categorical'
  config.evaluation.t_min = 0.0
  config.evaluation.dequantization = 'gaussian'
  config.sampling.clip = False
  config.sampling.num_steps = 250
  return base.with_argument(config, arg)

r"""Series that are continued: each number has a noise level of its own (Diffusion Forcing).

32 numbers of an AR(1), x_i = rho x_{i-1} + noise, whose law given a beginning is known.

  python launch.py --config=configs/rollout.py
  python launch.py --config=configs/rollout.py:causal
  python launch.py --config=configs/rollout.py --mode=sample \
    --config.sampling.context=beginning.npy
"""

from configs import base
from configs.base import section

VARIANTS = 'pyramid', 'causal', 'blocks'


def get_config(arg=''):
  config = base.short(2000, 1000, steps_per_call=20, batch_size=128)
  config = base.rectified_flow(config)
  config.data = section(
    'gaussian_process', sides=(32,), length=4.0, kernel='exponential', fresh=True
  )
  config.network = section('dit', channels=64, num_blocks=3, num_heads=4, patch_size=1)
  config.objective.levels = section('independent', clean=0.5)
  config.sampling.update(num_samples=1000, batch_size=500, num_steps=10)
  config.sampling.sampler = section(
    'dpm_solver_pp'
  )  # DDIM's variance is 24 % too small in 10 steps
  if arg == 'pyramid':
    config.sampling.order = section('pyramid', delay=2)
  if arg == 'causal':
    config.network.causal = 1
    config.sampling.order = section('blocks')
  if arg == 'blocks':
    config.network.causal = 4
    config.objective.levels.size = 4
    config.sampling.order = section('blocks')
  return config

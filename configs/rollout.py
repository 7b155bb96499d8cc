r"""Series that are continued: each number has a noise level of its own (Diffusion Forcing).

32 numbers of an AR(1), x_i = rho x_{i-1} + noise, whose law given a beginning is known; eeg: 32
points of time of 4 electrodes.

  python launch.py --config=configs/rollout.py
  python launch.py --config=configs/rollout.py:causal
  python launch.py --config=configs/rollout.py --mode=sample \
    --config.sampling.context=beginning.npy
  python launch.py --config=configs/rollout.py --mode=evaluate
"""

from configs import base
from configs.base import section

VARIANTS = 'pyramid', 'causal', 'blocks', 'eeg'


def get_config(arg=''):
  config = base.short(1200, 600, steps_per_call=20, batch_size=128)
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
  config.evaluation.update(num_pairs=100, draws_per_pair=20)
  if arg == 'pyramid':
    config.sampling.order = section('pyramid', delay=2)
  if arg == 'causal':
    config.network.causal = 1
    config.sampling.order = section('blocks')
  if arg == 'blocks':
    config.network.causal = 4
    config.objective.levels.size = 4
    config.sampling.order = section('blocks')
  if arg == 'eeg':
    config.data = section('eeg')  # 569 windows, which more steps learn by heart
    config.training.update(num_steps=300)
    config.sampling.order = section('pyramid')
  return config

r"""Rectified flow on CIFAR-10 (Liu et al. 2022): the straight path, t uniform.

x_t = (1 - t) x_0 + t eps and the loss |v - v_hat|^2, with the optimiser and the
length of DDPM's recipe. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_flow.py
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.schedule.name = 'flow'
  config.network.num_blocks = 4
  config.network.dropout = 0.1
  config.conditioning.noise_input = 'time'
  config.objective.parametrization = 'flow'
  config.objective.weight = 'flow'
  config.objective.times = 'uniform'
  config.sampling.sampler = 'ddim'  # with eta = 0 it is Euler's method here
  config.sampling.num_steps = 100
  config.sampling.clip = False
  return base.with_argument(config, arg)

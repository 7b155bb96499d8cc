r"""Rectified flow on CIFAR-10 (Liu et al. 2022): the straight path, t uniform.

x_t = (1 - t) x_0 + t eps and the loss |v - v_hat|^2, with the optimiser and the
length of DDPM's recipe. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_flow.py
"""

from configs import base, cifar10
from configs.base import section


def get_config():
  config = base.rectified_flow(cifar10.shared())
  config.network = section('unet', num_blocks=4, dropout=0.1)
  config.sampling.num_steps = 100
  return config

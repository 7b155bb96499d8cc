r"""Rectified flow on the digits: the network of digits.py, a straight path.

x_t = (1 - t) x_0 + t eps and the loss |v - v_hat|^2. Measured on 2 busy CPU
cores: 4 min 59 s; 99.6 % +- 0.3 of 500 samples are read as the requested class
(see digits.py), 99.8 % +- 0.2 with 10 steps instead of 50.

  python launch.py --config=configs/digits_flow.py
  python launch.py --config=configs/digits_flow.py:unscaled

With `unscaled` the network sees t and not 1000 t, as the models of few steps
that begin with this run need it (digits_meanflow.py): the same test loss.
"""

from configs import digits
from configs.base import section

VARIANTS = ('unscaled',)


def get_config(arg=''):
  config = digits.get_config()
  config.schedule = section('flow')
  scale = 1.0 if arg == 'unscaled' else 1000.0
  config.noise_input = section('time', scale=scale)
  config.parametrization = section('flow')
  config.objective = section('denoising', times='logit_normal', weight='flow')
  config.sampling.sampler = section('ddim')  # Euler's method here
  config.sampling.num_steps = 50
  config.sampling.clip = False
  return config

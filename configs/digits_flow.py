r"""Rectified flow on the digits: the network of digits.py, a straight path.

x_t = (1 - t) x_0 + t eps and the loss |v - v_hat|^2. Measured on 2 busy CPU
cores: 4 min 59 s; 99.6 % +- 0.3 of 500 samples are classified as the requested
class (see digits.py), 99.8 % +- 0.2 with 10 steps instead of 50.

  python launch.py --config=configs/digits_flow.py
  python launch.py --config=configs/digits_flow.py:unscaled

With `unscaled` the network sees t and not 1000 t, as the models of few steps
that begin with this run need it (digits_meanflow.py): the same test loss.
"""

from configs import base, digits

VARIANTS = ('unscaled',)


def get_config(arg=''):
  scale = 1.0 if arg == 'unscaled' else 1000.0
  config = base.rectified_flow(digits.conditional(), 'logit_normal', scale)
  config.sampling.num_steps = 50
  return config

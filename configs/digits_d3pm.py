r"""D3PM on the digits' 17 grey levels (Austin et al. 2021), T = 1000.

Uniform transitions; :absorbing; :gaussian, with a logistic output. Measured on
2 busy CPU cores, bits per dimension of the first 180 test digits: uniform 1.838
+- 0.017, absorbing 1.777 +- 0.017, Gaussian 1.881 +- 0.019 (docs/discrete.md).

  python launch.py --config=configs/digits_d3pm.py
"""

from configs import digits_masked
from configs.base import section

VARIANTS = 'absorbing', 'gaussian'
BETAS = {'': 'cosine', 'absorbing': 'reciprocal', 'gaussian': 'linear'}


def get_config(arg=''):
  config = digits_masked.get_config()
  config.schedule = section('alpha_bar', schedule=section(BETAS[arg]))
  config.transitions = section(arg or 'uniform')
  config.noise_input = section('step')
  config.objective = section('d3pm')
  config.training.num_steps = 1500
  if arg == 'gaussian':
    config.states = section(output='logistic')
  return config

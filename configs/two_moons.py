r"""The posterior of a simulator: two moons of the inference benchmark.

p(x | context) from 10,000 simulations, EDM with a perceptron of 364,162
parameters (Greenberg et al. 2019; Lueckmann et al. 2021). Measured on two
shared CPU cores: 6 min. C2ST against 5,000 draws of the exact posterior, which
`demos.simulators.two_moons_posterior` makes: 0.509 (0.497 to 0.523) for the
benchmark's observations 1 to 5; 0.5 is perfect. 2.6 % of the draws were outside
the prior's box and were drawn again.

  python launch.py --config=configs/two_moons.py
  python launch.py --config=configs/two_moons.py --mode=sample \
    --config.sampling.context=y.npy
"""

from configs import base
from configs.base import section


def get_config():
  config = base.edm_of_numbers(base.get_config())
  config.data = section('two_moons', bounds=(-1.0, 1.0))
  config.network = section('mlp', channels=128)
  config.conditioning = section(context='vector')
  config.optimizer = section(
    'adamw', learning_rate=1e-3, warmup_steps=200, decay='cosine'
  )
  config.training.num_steps = 6000
  config.training.batch_size = 256
  config.training.steps_per_call = 50
  config.training.ema_decay = 0.999
  config.training.log_every = 500
  config.training.evaluate_every = 500
  config.training.evaluate_batches = 3
  config.training.checkpoint_every = 500
  config.training.sample_every = 3000
  config.training.keep_best = 1
  config.sampling.checkpoint = 'best'
  config.sampling.num_samples = 1000
  config.sampling.batch_size = 1000
  return config

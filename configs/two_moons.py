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
  config = base.short(
    6000,
    learning_rate=1e-3,
    batch_size=256,
    steps_per_call=50,
    log_every=500,
    held_out=section(batches=3),
    sample_every=3000,
    checkpoints=section(best=section('lowest')),
  )
  config = base.edm_of_numbers(config)
  config.data = section('two_moons', bounds=(-1.0, 1.0))
  config.network = section('mlp', channels=128)
  config.conditioning = section(context='vector')
  config.optimizer.warmup_steps = 200
  config.sampling.update(checkpoint='best', num_samples=1000, batch_size=1000)
  return config

r"""Posteriors of the eight tasks of the benchmark of Lueckmann et al. (2021).

p(x | context) from 10,000 simulations, EDM with a perceptron, by one recipe:
nothing but the box of a uniform prior depends on the task. docs/results.md
has what was measured; `demos/simulators.py` has the tasks.

  python launch.py --config=configs/inference.py:slcp
  python launch.py --config=configs/inference.py:slcp --mode=sample \
    --config.sampling.context=y.npy
"""

import functools
import operator

from configs import base
from configs.base import section

BOUNDS = {
  'two_moons': (-1.0, 1.0),
  'gaussian_mixture': (-10.0, 10.0),
  'gaussian_linear': (),
  'gaussian_linear_uniform': (-1.0, 1.0),
  'bernoulli_glm': (),
  'slcp': (-3.0, 3.0),
  'sir': (),
  'lotka_volterra': (),
}
VARIANTS = (*BOUNDS,)


def budget(simulations, times=1):
  """Returns the fields that depend on the number of simulations.

  A tenth of them, at most 2,000, are held out. times: as many steps, for a
  training whose last step had the least held-out loss (docs/inference.md).
  """
  test = min(simulations // 10, 2000)
  steps = times * 500 * max(1, round(simulations**0.5 * 0.12))
  return {
    'data.num_examples': simulations - test,
    'data.num_test': test,
    'training.num_steps': steps,
    'training.held_out.every': steps // 20,
    'training.checkpoints.every': steps // 20,
    'training.held_out.patience': steps // 20 * 4,
  }


def get_config(arg=''):
  task = arg or 'two_moons'
  config = base.edm_of_numbers(base.get_config())
  config.data = section(task, bounds=BOUNDS[task])
  config.network = section('mlp', channels=128)
  config.conditioning = section(context='vector')
  config.optimizer = section(
    'adamw',
    learning_rate=1e-3,
    warmup_steps=100,
    decay='cosine',
    weight_decay=0.2,  # docs/inference.md: more for one that over-fits
  )
  config.training.update(batch_size=256, steps_per_call=50, average=section(decay=0.999))
  config.training.update(log_every=500, sample_every=0, log_to=(), held_out=section())
  config.training.checkpoints = section(keep=1, best=section('lowest'))
  for path, value in budget(10_000).items():
    *parts, field = path.split('.')
    functools.reduce(operator.getitem, parts, config)[field] = value
  config.sampling.checkpoint = 'best'
  config.sampling.num_samples = 10_000
  config.sampling.batch_size = 10_000
  return config

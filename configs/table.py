r"""A table of numbers, dates and categories: rows like its own, and any cells given any others.

Columns are tokens, which a perceptron of 3 blocks of 512 channels reads, or a small
transformer, 4 blocks of 96 channels. Adult, of 15 columns, takes 12 minutes of one core.
Numbers go by their quantiles to a normal and have Gaussian noise, categories are masked. Kinds
of columns are told from their cells; samples have gaps as the table (docs/tables.md).

  python launch.py --config=configs/table.py
  python launch.py --config=configs/table.py --config.data.path=my.csv
  python launch.py --config=configs/table.py:transformer --config.data.path=my.csv
  python launch.py --config=runs/table --mode=sample --config.sampling.context=rows.csv
"""

from configs import base
from configs.base import section

VARIANTS = ('transformer',)


def get_config(arg=''):
  config = base.short(
    7000, 1000, 2e-3, batch_size=256, steps_per_call=50, log_every=250, sample_every=7000
  )
  config.data = section('table')
  config.schedule = section('continuous_cosine')
  config.noise_input = section('time', scale=1000.0)
  config.parametrization = section('v')
  config.objective = section('cells', levels='given')
  # Each column has a level, and their embeddings are side by side.
  config.network = section('mlp', channels=512, num_blocks=3, noise_features=16, modulation=False)
  if arg == 'transformer':
    config.network = section('dit', channels=96, num_blocks=4, num_heads=4, patch_size=1)
    config.optimizer.learning_rate = 1e-3
  config.sampling.sampler = section('ddim', eta=1.0)
  config.sampling.update(num_samples=1000, batch_size=1000, num_steps=100)
  return config

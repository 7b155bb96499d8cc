r"""Regression on a table: the distribution of one number given its features.

p(x | context), EDM with a perceptron. The data are scikit-learn's diabetes, or
with :npz arrays `target` [N] and `features` [N, D] of a file, whose
`test_indices` [splits, n] are its test splits. A part of the rest chooses the
best checkpoint. docs/results.md has what was measured.

  python launch.py --config=configs/regression.py
  python launch.py --config=runs/regression --mode=evaluate
  python launch.py --config=configs/regression.py:npz --config.data.path=yacht.npz
"""

from configs import base
from configs.base import section

VARIANTS = ('npz',)


def get_config(arg=''):
  config = base.short(
    3000,
    every=50,
    learning_rate=1e-3,
    batch_size=128,
    steps_per_call=50,
    held_out=section(patience=500),
    log_every=500,
    sample_every=0,
    checkpoints=section(keep=1, best=section('lowest')),
  )
  config = base.edm_of_numbers(config)
  config.data = section('diabetes', validation_fraction=0.1)
  if arg == 'npz':
    config.data = section('npz', x='target', context='features', validation_fraction=0.1)
  config.network = section('mlp', channels=64, num_blocks=2, dropout=0.1)
  config.conditioning = section(context='vector')
  config.optimizer.weight_decay = 0.1
  config.sampling.update(checkpoint='best', num_samples=1000, batch_size=10_000)
  config.evaluation.update(metrics=('regression', 'ode'), num_pairs=10_000)
  config.evaluation.draws_per_pair = 1000
  return config

r"""DDPM on CIFAR-10 (Ho et al. 2020): L_simple, T = 1000, linear beta.

The published recipe: 35.7M parameters, 800k steps of batch 128, fixed_large
variance, FID 3.17 in the paper. Not trained here yet: not measured. The first
command is optional: training downloads the set, 170 MB, or reads the archive
from a folder (docs/data.md).

  python -m diffusion_jax.data.prepare cifar10
  python launch.py --config=configs/cifar10.py
"""

from configs import base


def shared():
  """The data and the training that experiments with CIFAR-10 share."""
  config = base.get_config()
  config.data.name = 'cifar10'
  config.data.num_classes = 10
  config.data.random_flip = True
  config.optimizer.warmup_steps = 5000
  config.training.num_steps = 800_000
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000
  return config


def get_config(arg=''):
  config = shared()
  config.network.dropout = 0.1
  config.sampling.variance = 'fixed_large'
  return base.with_argument(config, arg)


def sweep():
  """DDPM's learning rate and its neighbours, for three seeds each."""
  for learning_rate in (1e-4, 2e-4, 4e-4):
    for seed in range(3):
      yield {'optimizer.learning_rate': learning_rate, 'seed': seed}

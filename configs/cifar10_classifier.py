r"""A classifier of noisy CIFAR-10 (Dhariwal & Nichol 2021), to guide a run.

The paper's recipe for larger pictures, at 32: width 128, two blocks per
resolution, attention at 16 and 8, 64 channels per head, residual blocks that
change the resolution; AdamW 3e-4 falling to 0, weight decay 0.05 of all
parameters, batch 256, no average of the parameters. It flips images but does
not crop them, as the release does. The noise is that of cifar10.py. Not trained
here yet: not measured.

  python launch.py --config=configs/cifar10_classifier.py
  python launch.py --config=configs/cifar10_classifier.py --mode=evaluate
  python launch.py --config=configs/cifar10.py --mode=sample \
    --config.sampling.classifier=runs/cifar10_classifier
  python launch.py --config=configs/cifar10_classifier.py:smoke
"""

from configs import base


def get_config(arg=''):
  """The noise of cifar10.py, the classifier of docs/recipes.md, section 3.4."""
  config = base.get_config()
  config.data.name = 'cifar10'
  config.data.num_classes = 10
  config.data.random_flip = True

  config.network.name = 'classifier'
  config.network.head_channels = 64

  config.objective.name = 'classifier'

  config.optimizer.learning_rate = 3e-4
  config.optimizer.decay = 'linear'
  config.optimizer.decay_steps = config.training.get_oneway_ref('num_steps')
  config.optimizer.weight_decay = 0.05
  config.optimizer.weight_decay_mask = 'all'
  config.optimizer.clip_norm = 0.0

  config.training.num_steps = 300_000
  config.training.batch_size = 256
  config.training.ema_decay = 0.0  # none
  config.training.sample_every = 0
  config.training.checkpoint_every = 5000
  config.training.evaluate_every = 5000
  config.evaluation.metrics = ('accuracy',)
  return base.with_argument(config, arg)

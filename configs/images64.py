r"""Unconditional DDPM on a folder of pictures of any sizes, at 64x64 in colour.

T = 1000, linear beta; 88,217,219 parameters, so a GPU is needed. Not measured
yet. Sub-folders are classes with --config.data.num_classes=<sub-folders> and
--config.conditioning.labels=true.

  python launch.py --config=configs/images64.py --config.data.path=my/pictures
"""

from configs import base


def get_config(arg=''):
  config = base.get_config()
  config.data.name = 'folder'
  config.data.image_shape = (64, 64, 3)
  config.data.random_flip = True
  config.network.multipliers = (1, 2, 3, 4)
  config.network.attention_resolutions = (16, 8)
  config.network.dropout = 0.1
  config.network.dtype = 'bfloat16'
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 5000
  config.training.num_steps = 500_000
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000
  config.sampling.sampler = 'ddim'
  config.sampling.num_steps = 100
  config.sampling.num_samples = 64
  config.sampling.batch_size = 64
  return base.with_argument(config, arg)

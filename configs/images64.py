r"""Unconditional DDPM on a folder of pictures of any sizes, at 64x64 in colour.

T = 1000, linear beta; 88,217,219 parameters, so a GPU is needed: on two CPU
cores a step takes minutes and 8 GB (configs/pictures.py is made for them). Not
measured on a GPU yet. Sub-folders are classes with --config.data.labelled=true.

  python launch.py --config=configs/images64.py --config.data.path=my/pictures
"""

from configs import base
from configs.base import section


def get_config():
  config = base.get_config()
  config.data = section('folder', image_shape=(64, 64, 3))
  config.network = section(
    'unet', multipliers=(1, 2, 3, 4), attention_resolutions=(16, 8), dropout=0.1, dtype='bfloat16'
  )
  config.optimizer = section('adamw', learning_rate=1e-4, warmup_steps=5000)
  config.training.update(random_flip=True, num_steps=500_000, sample_every=10_000)
  config.training.checkpoints.every = 5000
  config.sampling.sampler = section('ddim')
  config.sampling.update(num_steps=100, num_samples=64, batch_size=64)
  return config

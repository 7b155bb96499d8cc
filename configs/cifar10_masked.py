r"""Masked diffusion of CIFAR-10's 256 grey levels, MD4 (Shi et al. 2024).

A U-Net at constant resolution, as VDM's: 32 blocks of 128 channels, attention
in the middle only; continuous time, the cosine schedule, 2M steps of batch 256.
The paper has 2.75 bits per dimension on the test images. Not trained here: not
measured. Sizes and rates are taken from the paper; the release was not at hand,
so check them before a long run.

  python launch.py --config=configs/cifar10_masked.py
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.schedule = section('cosine_masking')
  config.network = section(
    'unet', multipliers=(1,), num_blocks=32, attention_resolutions=(), dropout=0.1
  )
  config.states = section(features=128)
  config.noise_input = section('time')
  config.objective = section('masked')
  config.optimizer.update(
    learning_rate=4e-4, warmup_steps=100, clip_norm=0.0, b2=0.99, weight_decay=0.01
  )
  config.training.update(random_flip=False, num_steps=2_000_000, batch_size=256)
  config.training.update(sample_every=50_000, held_out=section(every=10_000, batches=39))
  config.sampling.num_steps = 256
  return config

r"""Masked diffusion of text, byte by byte: MD4's objective, a small DiT.

It learns the package's own licence, README and modules. data.path names a file
or a folder of other texts.

  python launch.py --config=configs/text_masked.py
  python launch.py --config=configs/text_masked.py --config.data.path=my/folder
  python launch.py --config=configs/text_masked.py --mode=sample
  python launch.py --config=configs/text_masked.py --mode=evaluate
"""

from configs import base
from configs.base import section


def get_config():
  config = base.get_config()
  config.data = section('text', length=128)
  config.schedule = section('polynomial_masking')
  config.network = section(
    'dit',
    channels=128,
    num_blocks=4,
    num_heads=4,
    patch_size=1,
    positions='rotary',
    qk_norm=True,
    mlp='swiglu',
  )
  config.states = section(features=128)
  config.noise_input = section('time')
  config.objective = section('masked')
  config.optimizer = section(
    'adamw', learning_rate=2e-3, warmup_steps=100, decay='cosine', b2=0.98
  )
  config.training.num_steps = 1500
  config.training.batch_size = 32
  config.training.steps_per_call = 10
  config.training.ema_decay = 0.999
  config.training.evaluate_every = 500
  config.training.sample_every = 500
  config.training.checkpoint_every = 500
  config.sampling.num_samples = 16
  config.sampling.batch_size = 16
  config.sampling.num_steps = 128
  return config

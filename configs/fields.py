r"""Fields of two correlated channels of real numbers: a U-Net of arrays.

python launch.py --config=configs/fields.py
"""

from configs import base
from configs.base import section


def get_config():
  config = base.edm_of_numbers(base.get_config())
  config.data = section(
    'gaussian_process',
    sides=(16, 16),
    length=6.0,
    mean=(280.0, 0.0),
    std=(10.0, 2e-3),
    correlation=0.6,
    fresh=True,
  )
  config.network = section(
    'unet',
    channels=32,
    multipliers=(1, 2),
    num_blocks=1,
    num_groups=8,
    attention_resolutions=(8,),
  )
  config.optimizer = section(
    'adamw', learning_rate=2e-3, warmup_steps=200, decay='cosine'
  )
  config.training.num_steps = 1500
  config.training.batch_size = 64
  config.training.steps_per_call = 10
  config.training.ema_decay = 0.999
  config.training.log_every = 100
  config.training.evaluate_every = 500
  config.training.sample_every = 500
  config.sampling.num_samples = 1000
  config.sampling.batch_size = 250
  return config

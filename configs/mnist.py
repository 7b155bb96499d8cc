r"""Class-conditional DDPM on MNIST, 28x28 grey.

T = 1000, linear beta; 6,472,705 parameters, feature maps of 28, 14 and 7
pixels. Not measured yet. The first command is optional: training downloads the
set, 12 MB.

  python -m diffusion_jax.data.prepare mnist
  python launch.py --config=configs/mnist.py
"""

from configs import base
from configs.base import section


def get_config():
  config = base.get_config()
  config.data = section('mnist')
  config.network = section(
    'unet',
    channels=64,
    multipliers=(1, 2, 2),
    attention_resolutions=(7,),
    dropout=0.1,
  )
  config.conditioning = section(labels=True, dropout=0.1)
  config.optimizer = section(
    'adamw', learning_rate=5e-4, warmup_steps=500, decay='cosine'
  )
  config.training.num_steps = 20_000
  config.training.ema_decay = 0.9995
  config.training.sample_every = 2000
  config.training.checkpoint_every = 2000
  config.training.evaluate_every = 2000
  config.sampling.sampler = section('ddim', eta=1.0)
  config.sampling.num_steps = 100
  return config

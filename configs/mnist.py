r"""Class-conditional DDPM on MNIST, 28x28 grey.

T = 1000, linear beta; 6,472,705 parameters, feature maps of 28, 14 and 7
pixels. Not measured yet. The first command is optional: training downloads the
set, 12 MB.

  python -m diffusion_jax.data.prepare mnist
  python launch.py --config=configs/mnist.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config()
  config.data.name = 'mnist'
  config.data.image_shape = (28, 28, 1)
  config.data.num_classes = 10
  config.network.channels = 64
  config.network.multipliers = (1, 2, 2)
  config.network.attention_resolutions = (7,)
  config.network.dropout = 0.1
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 500
  config.optimizer.decay = 'cosine'
  config.optimizer.decay_steps = config.training.get_oneway_ref('num_steps')
  config.training.num_steps = 20_000
  config.training.ema_decay = 0.9995
  config.training.ema_warmup = True
  config.training.sample_every = 2000
  config.training.checkpoint_every = 2000
  config.training.evaluate_every = 2000
  config.sampling.sampler = 'ddim'
  config.sampling.eta = 1.0
  config.sampling.num_steps = 100
  return base.with_argument(config, arg)

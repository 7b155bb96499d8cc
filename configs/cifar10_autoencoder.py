r"""A KL autoencoder of CIFAR-10: 8x8x4 latents for diffusion.

That of Rombach et al. 2022 (f = 4), smaller, without discriminator and
perceptual loss (docs/vae.md). Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_autoencoder.py
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.network.name = 'autoencoder'
  config.network.channels = 128
  config.network.multipliers = (1, 2, 4)
  config.network.num_blocks = 2
  config.network.attention_resolutions = (8,)
  config.objective.name = 'vae'
  config.objective.beta = 0.01
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 1000
  config.optimizer.decay = 'cosine'
  config.optimizer.decay_steps = config.training.get_oneway_ref('num_steps')
  config.optimizer.weight_decay = 0.01
  config.training.num_steps = 100_000
  config.training.ema_decay = 0.9995
  config.training.ema_warmup = True
  config.training.evaluate_every = 5000
  config.training.evaluate_batches = 79  # all 10,000 images
  return base.with_argument(config, arg)

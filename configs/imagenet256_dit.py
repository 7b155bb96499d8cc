r"""DiT-XL/2 on ImageNet 256x256 (Peebles & Xie 2023), in latents.

docs/recipes.md section 14: 674,834,720 parameters, learned variances, in the
latents of imagenet256_autoencoder.py, which is imported or trained first
(`:smoke` needs its smoke run). The release computes in float32. Guidance is of
the first three channels, as in its code. Not run here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
  python launch.py --config=configs/imagenet256_dit.py
"""

from configs import base


def pixels():
  """The data, and the intervals of a long run, that experiments share."""
  config = base.get_config()
  config.data.name = 'tfds'
  config.data.tfds_name = 'imagenet2012'
  config.data.test_split = 'validation'
  config.data.image_shape = (256, 256, 3)
  config.data.num_classes = 1000
  config.data.random_flip = True
  config.optimizer.clip_norm = 0.0
  config.training.mesh = (-1, 8)
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000
  config.training.keep_every = 100_000
  return config


def shared():
  """The network, the latents and the optimizer of DiT and SiT."""
  config = pixels()
  config.latent.run = 'runs/imagenet256_autoencoder'
  config.latent.shape = (32, 32, 4)
  config.network.name = 'dit'
  config.network.channels = 1152
  config.network.num_blocks = 28
  config.network.num_heads = 16
  config.network.patch_size = 2
  config.network.remat = True
  config.conditioning.labels = True
  config.conditioning.dropout = 0.1
  config.optimizer.learning_rate = 1e-4
  config.training.num_steps = 7_000_000
  config.training.batch_size = 256
  config.sampling.num_steps = 250
  config.sampling.guidance_scale = 1.5
  config.sampling.clip = False  # latents are not within [-1, 1]
  return config


def get_config(arg=''):
  config = shared()
  config.network.learned_variance = True
  config.objective.name = 'hybrid'
  config.sampling.variance = 'learned'
  config.sampling.respacing = '250'
  config.sampling.guidance_channels = 3
  return base.with_argument(config, arg)

r"""DiT-XL/2 on ImageNet 256x256 (Peebles & Xie 2023), in latents.

docs/weights.md: 674,834,720 parameters, learned variances, in the
latents of imagenet256_autoencoder.py, which is imported or trained first
(`:smoke` needs its smoke run). The release computes in float32. Guidance is of
the first three channels, as in its code. Not run here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
  python launch.py --config=configs/imagenet256_dit.py
"""

from configs import imagenet64
from configs.base import section


def shared():
  """The network, the latents and the optimizer of DiT and SiT."""
  config = imagenet64.at_256()
  config.latent = section('autoencoder', run='runs/imagenet256_autoencoder', shape=(32, 32, 4))
  config.network = section('dit', channels=1152, num_blocks=28, num_heads=16, remat=True)
  config.conditioning = section(labels=True, dropout=0.1)
  config.optimizer.learning_rate = 1e-4
  config.training.update(num_steps=7_000_000, batch_size=256)
  config.sampling.guidance = section('classifier_free', scale=1.5)
  config.sampling.bound = None  # latents are not within [-1, 1]
  return config


def get_config():
  config = shared()
  config.objective = section('hybrid')
  config.sampling.sampler = section('ancestral', variance='learned')
  config.sampling.grid = section('respaced', steps='250')
  config.sampling.guidance.channels = 3
  return config

r"""A KL autoencoder of CIFAR-10: 8x8x4 latents for diffusion.

The autoencoder of Rombach et al. 2022 (f = 4), smaller, without discriminator
and perceptual loss (docs/networks.md). Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_autoencoder.py
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.network = section(
    'autoencoder', channels=128, multipliers=(1, 2, 4), num_blocks=2, attention_resolutions=(8,)
  )
  config.objective = section('vae', beta=0.01)
  config.optimizer.update(learning_rate=5e-4, warmup_steps=1000, decay='cosine', weight_decay=0.01)
  config.training.num_steps = 100_000
  config.training.average = section(decay=0.9995)
  config.training.held_out = section(every=5000, batches=79)  # all 10,000 images
  return config

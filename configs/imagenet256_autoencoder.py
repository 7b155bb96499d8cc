r"""The KL autoencoder of Stable Diffusion (Rombach et al. 2022), f = 8.

Latents of 32x32x4; 83,653,863 parameters. Its published weights are imported in
place of a training:

  python launch.py --mode=convert --config.convert.source=sd-vae-ft-ema \
    --workdir=runs/imagenet256_autoencoder

Trained here it would have neither discriminator nor perceptual loss
(docs/networks.md). Not run here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
"""

from configs import imagenet64
from configs.base import section


def get_config():
  config = imagenet64.at_256()
  config.network = section(
    'autoencoder',
    channels=128,
    multipliers=(1, 2, 4, 4),
    num_blocks=2,
    decoder_blocks=3,
    middle_attention='norm',
    latent_convs=True,
    log_variance_limits=(-30.0, 20.0),
    dtype='bfloat16',
  )
  config.decoding = section(decoder='unit_gaussian')
  config.objective = section('vae', beta=1e-6)
  config.optimizer.learning_rate = 1e-4
  config.training.update(num_steps=200_000, batch_size=96)
  return config

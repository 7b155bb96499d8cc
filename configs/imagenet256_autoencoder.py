r"""The KL autoencoder of Stable Diffusion (Rombach et al. 2022), f = 8.

Latents of 32x32x4; 83,653,863 parameters. Its published weights are imported in
place of a training:

  python launch.py --config=configs/run.py --mode=convert \
    --config.convert.source=sd-vae-ft-ema --workdir=runs/imagenet256_autoencoder

Trained here it would have neither discriminator nor perceptual loss
(docs/vae.md). Not run here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
"""

from configs import base, imagenet256_dit


def get_config(arg=''):
  config = imagenet256_dit.pixels()
  config.network.name = 'autoencoder'
  config.network.channels = 128
  config.network.multipliers = (1, 2, 4, 4)
  config.network.num_blocks = 2
  config.network.decoder_blocks = 3
  config.network.attention_resolutions = ()
  config.network.middle_attention = 'norm'
  config.network.latent_convs = True
  config.network.latent_channels = 4
  config.network.log_variance_limits = (-30.0, 20.0)
  config.network.dtype = 'bfloat16'
  config.objective.name = 'vae'
  config.objective.decoder = 'unit_gaussian'
  config.objective.beta = 1e-6
  config.optimizer.learning_rate = 1e-4
  config.training.num_steps = 200_000
  config.training.batch_size = 96
  return base.with_argument(config, arg)

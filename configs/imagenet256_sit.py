r"""SiT-XL/2 on ImageNet 256x256 (Ma et al. 2024): DiT on a straight path.

docs/weights.md: the velocity at uniform times, sampled by an SDE
whose diffusion coefficient, 2 sigma, was chosen after training. 674,816,272
parameters; the release has 18,448 more, for channels that it discards. Not run
here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
  python launch.py --config=configs/imagenet256_sit.py
"""

from configs import base, imagenet256_dit
from configs.base import section


def get_config():
  config = base.rectified_flow(imagenet256_dit.shared(), scale=1.0)
  config.sampling.num_steps = 250
  config.sampling.sampler = section('velocity_sde', diffusion='sigma', diffusion_scale=2.0)
  config.sampling.guidance.channels = 3
  return config

r"""SiT-XL/2 on ImageNet 256x256 (Ma et al. 2024): DiT on a straight path.

docs/recipes.md section 14: the velocity at uniform times, sampled by an SDE
whose diffusion coefficient, 2 sigma, was chosen after training. 674,816,272
parameters; the release has 18,448 more, for channels that it discards. Not run
here yet: not measured.

  python launch.py --config=configs/imagenet256_autoencoder.py
  python launch.py --config=configs/imagenet256_sit.py
"""

from configs import base, imagenet256_dit


def get_config(arg=''):
  config = imagenet256_dit.shared()
  config.schedule.name = 'flow'
  config.conditioning.noise_input = 'time'
  config.conditioning.time_scale = 1.0
  config.objective.parametrization = 'flow'
  config.objective.weight = 'flow'
  config.objective.times = 'uniform'
  config.sampling.sampler = 'velocity_sde'
  config.sampling.diffusion = 'sigma'
  config.sampling.diffusion_scale = 2.0
  config.sampling.guidance_channels = 3
  return base.with_argument(config, arg)

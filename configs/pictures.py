r"""Unconditional diffusion of a folder of your own pictures, 32x32 in colour.

The pictures may have any sizes: they are cropped to the centre and made
smaller. T = 1000, cosine schedule, v-prediction; 1,525,411 parameters. 2,000
steps on 2,000 pictures took 24 min of processor time, 39 min on two shared
cores, 3.2 GB: samples of cars had the colours, roads and windows, but few were
whole cars. Half of the pictures are mirrored at random (training.random_flip).
Sub-folders are classes with --config.data.labelled=true. configs/images64.py is
the config for a GPU.

  python launch.py --config=configs/pictures.py --config.data.path=my/pictures
"""

from configs import base
from configs.base import section


def get_config():
  config = base.short(2000, 1000, 1e-3, batch_size=32)
  config.training.average.decay = 0.998
  config.data = section('folder', image_shape=(32, 32, 3), test_fraction=0.1)
  config.schedule = section('cosine')
  config.parametrization = section('v')
  config.objective = section('denoising', weight='truncated_snr')
  config.network = section('unet', channels=32, num_blocks=1, attention_resolutions=(8,))
  config.training.random_flip = True
  config.sampling.sampler = section('dpm_solver_pp')
  config.sampling.update(num_steps=20, num_samples=36)
  return config

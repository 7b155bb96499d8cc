r"""DDPM on 32x32 crops of two photos that ship with scikit-learn: no download.

Colour images of CIFAR's size, to try everything on a CPU: 1,113,955 parameters,
photos of 160x107. Measured on 2 cores shared with other work: 8 min 28 s for
2,000 steps, test loss 0.020 on the unseen right-hand quarter; the mean loss of
the first hundred steps is 0.52, after 200 steps it is 0.07. Samples:
docs/images/photos.png.

  python launch.py --config=configs/photos.py
  python launch.py --config=configs/photos.py --workdir=runs/mine \
    --config.data.shrink=8 --config.data.paths=one.jpg,two.jpg
"""

from configs import base
from configs.base import section


def get_config():
  config = base.short(2000, learning_rate=1e-3, batch_size=16)
  config.data = section('photos', shrink=4, test_fraction=0.25)
  config.network = section(
    'unet',
    channels=32,
    multipliers=(1, 2, 2),
    num_blocks=1,
    attention_resolutions=(8,),
    num_groups=8,
  )
  # eta = 0 leaves noise in some of the images
  config.sampling.sampler = section('ddim', eta=1.0)
  config.sampling.update(num_steps=100, num_samples=36, batch_size=36)
  return config

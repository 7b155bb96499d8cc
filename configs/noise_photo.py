r"""The homework: a photo is noised step by step with a list of alphas.

The default is 500 alphas that descend along a line from 0.9998 to 0.96.

  python launch.py --config=configs/noise_photo.py --mode=noise
  python launch.py --config=configs/noise_photo.py --mode=noise \
    --config.noise.image=me.jpg --config.schedule=alphas \
    --config.schedule.values=0.99,0.98,0.97,0.96,0.95
"""

from configs import base
from configs.base import section


def get_config():
  config = base.get_config()
  config.schedule = section('rescaled_linear', num_steps=500)
  config.noise = section(image='china.jpg')
  return config

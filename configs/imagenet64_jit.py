r"""JiT-B/4 on ImageNet 64x64: imagenet256_jit.py with patches of 4x4 pixels.

The same 256 patches at a lower resolution; 48 numbers a patch, so that every
prediction works there (Li & He 2025, Table 2). 130,477,872 parameters. Not run
here yet: not measured.

  python launch.py --config=configs/imagenet64_jit.py
"""

from configs import base, imagenet256_jit


def get_config(arg=''):
  config = imagenet256_jit.shared()
  config.data.tfds_name = 'imagenet_resized/64x64'
  config.data.image_shape = (64, 64, 3)
  config.network.patch_size = 4
  return base.with_argument(config, arg)

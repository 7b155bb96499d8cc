r"""A transformer on CIFAR-10 pixels, class-conditional: JiT's objective.

DiT-S with patches of 2x2 pixels (Peebles & Xie 2023) and JiT's options,
predicting x_0 (Li & He 2025). No paper has this recipe. Not trained here yet:
not measured.

  python launch.py --config=configs/cifar10_dit.py
"""

from configs import cifar10, imagenet256_jit
from configs.base import section


def get_config():
  config = imagenet256_jit.predict_x0(cifar10.shared())
  config.network = section('dit', **imagenet256_jit.OPTIONS, dropout=0.1, dropout_blocks='middle')
  config.training.num_steps = 400_000
  config.sampling.num_steps = 50
  return config

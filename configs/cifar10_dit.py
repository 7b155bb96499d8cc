r"""A transformer on CIFAR-10 pixels, class-conditional: JiT's objective.

DiT-S with patches of 2x2 pixels (Peebles & Xie 2023) and JiT's options,
predicting x_0 (Li & He 2025). No paper has this recipe. Not trained here yet:
not measured.

  python launch.py --config=configs/cifar10_dit.py
"""

from configs import base, cifar10, imagenet256_jit


def get_config(arg=''):
  config = imagenet256_jit.predict_x0(cifar10.shared())
  config.network.name = 'dit'
  config.network.multipliers = None
  config.network.attention_resolutions = None
  config.network.channels = 384
  config.network.num_blocks = 12
  config.network.num_heads = 6
  config.network.patch_size = 2
  config.network.positions = 'both'
  config.network.norm = 'rms'
  config.network.qk_norm = True
  config.network.mlp = 'swiglu'
  config.network.dropout = 0.1
  config.network.dropout_blocks = 'middle'
  config.training.num_steps = 400_000
  config.sampling.num_steps = 50
  return base.with_argument(config, arg)

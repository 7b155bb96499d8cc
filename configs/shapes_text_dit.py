r"""Text to image by a transformer: shapes_text.py with MM-DiT's blocks.

Esser et al. 2024, small: the bytes of the text and 64 patches of 2x2 pixels are
two streams with one attention. 998,220 parameters, and a step takes as many
operations as one of shapes_text.py. Measured, 44 min of CPU time: with two
objects 47.0 % +- 1.6 of 975 samples are right, where that U-Net has 98.4 %; of
combinations that training pictures have, 89.4 % +- 2.4 of 170 (docs/text.md).

  python launch.py --config=configs/shapes_text_dit.py
  python launch.py --config=configs/shapes_text_dit.py --mode=sample \
    --config.sampling.prompt='a red circle above a blue square'
"""

from configs import base, shapes_text


def get_config(arg=''):
  config = shapes_text.get_config()
  config.network.name = 'dit'
  config.network.channels = 64
  config.network.multipliers = None
  config.network.attention_resolutions = None
  config.network.num_groups = None
  config.network.num_blocks = 6
  config.network.num_heads = 4
  config.network.patch_size = 2
  config.network.qk_norm = True
  config.network.text_attention = 'joint'
  config.optimizer.b2 = 0.95
  return base.with_argument(config, arg)

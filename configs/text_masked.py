r"""Masked diffusion of text, byte by byte: MD4's objective, a small DiT.

It learns the package's own licence, README and modules. data.path names a file
or a folder of other texts.

  python launch.py --config=configs/text_masked.py
  python launch.py --config=configs/text_masked.py --config.data.path=my/folder
  python launch.py --config=configs/text_masked.py --config.data.pieces=lines
  python launch.py --config=configs/text_masked.py --mode=sample
  python launch.py --config=configs/text_masked.py --mode=evaluate

:blocks writes blocks of 16 bytes, one after another (block diffusion), :uniform
starts from random bytes and has UDLM's objective.

  python launch.py --config=configs/text_masked.py:blocks
  python launch.py --config=configs/text_masked.py:blocks --mode=evaluate \
    --config.evaluation.elbo.order=left_to_right
"""

from configs import base
from configs.base import section

VARIANTS = 'blocks', 'uniform'


def get_config(arg=''):
  config = base.short(1500, batch_size=32, steps_per_call=10)
  config.data = section('text')
  config.schedule = section('polynomial_masking')
  config.network = section(
    'dit',
    channels=128,
    num_blocks=4,
    num_heads=4,
    patch_size=1,
    positions='rotary',
    qk_norm=True,
    mlp='swiglu',
  )
  config.states = section(features=128)
  config.noise_input = section('time')
  config.objective = section('masked')
  config.optimizer.b2 = 0.98
  config.sampling.update(num_samples=16, batch_size=16, num_steps=128)
  if arg == 'blocks':
    config.network.causal = 16
    config.objective.levels = section('in_turn', size=16)
    config.sampling.update(order=section('blocks'), num_steps=16)
  if arg == 'uniform':
    config.transitions = section('uniform')
    config.objective = section('uniform')
  return config

r"""DDPM on CIFAR-10 (Ho et al. 2020): L_simple, T = 1000, linear beta.

The published recipe: 35.7M parameters, 800k steps of batch 128, fixed_large
variance, FID 3.17 in the paper. Not trained here yet: not measured. On CPUs a
batch of 128 did not fit into 18 GB, and takes 8.7 GB with
--config.training.machine.accumulate=8 (docs/results.md). The first command is optional:
training downloads the set, 170 MB, or reads the archive from a folder
(docs/data.md).

  python -m diffusion_jax.data.prepare cifar10
  python launch.py --config=configs/cifar10.py

:conditional gets the class, and a tenth of the labels is dropped for guidance
without a classifier (Ho & Salimans 2022 drop 10 to 50 %); 35,751,939
parameters. :inpainting gets the known pixels and their mask, :colorize the
picture in grey (Palette, Saharia et al. 2022). None of these is measured yet.

  python launch.py --config=configs/cifar10.py:conditional --mode=sample \
    --config.sampling.guidance.scale=1.5
  python launch.py --config=configs/cifar10.py:inpainting --mode=edit \
    --config.edit.image=photo.png --config.edit.mask=mask.png
  python launch.py --config=configs/cifar10.py:colorize --mode=edit \
    --config.edit=colorize --config.edit.image=photo.png
"""

from configs import base
from configs.base import section

VARIANTS = 'conditional', 'inpainting', 'colorize'


def shared():
  """The data and the training that experiments with CIFAR-10 share."""
  config = base.get_config()
  config.data = section('cifar10')
  config.optimizer = section('adamw', warmup_steps=5000)
  config.training.random_flip = True
  config.training.average.warmup = False  # as released
  config.training.num_steps = 800_000
  config.training.sample_every = 10_000
  config.training.checkpoints.every = 5000
  return config


def get_config(arg=''):
  config = shared()
  config.network = section('unet', dropout=0.1)
  config.sampling.sampler = section('ancestral', variance='fixed_large')
  if arg == 'conditional':
    config.conditioning = section(labels=True, dropout=0.1)
  if arg == 'inpainting':
    config.conditioning = section(image='inpaint')
  if arg == 'colorize':
    config.conditioning = section(image='colorize')
  return config


def sweep():
  """DDPM's learning rate and its neighbours, for three seeds each."""
  for learning_rate in (1e-4, 2e-4, 4e-4):
    for seed in range(3):
      yield {'optimizer.learning_rate': learning_rate, 'seed': seed}

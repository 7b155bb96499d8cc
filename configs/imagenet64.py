r"""ADM on ImageNet 64x64, class-conditional (Dhariwal & Nichol 2021).

docs/weights.md: 295,904,454 parameters, bfloat16 (float16 in the
release), sharded over eight devices; 540k steps of batch 2048. tfds prepares
the data set (docs/data.md), whose images were made smaller by another filter
than the release's. Samples take 250 of the 1000 steps: another number is set by
sampling.grid=respaced, not sampling.num_steps. Not measured yet.

  python launch.py --config=configs/imagenet64.py
"""

from configs import base
from configs.base import section


def at_256():
  """ImageNet at 256x256, and the intervals of a long run, that experiments share."""
  config = base.get_config()
  config.data = section(
    'tfds',
    dataset='imagenet2012',
    test_split='validation',
    image_shape=(256, 256, 3),
    num_classes=1000,
  )
  config.optimizer = section('adamw', clip_norm=0.0)
  config.training.random_flip = True
  config.training.average.warmup = False  # as released
  config.training.machine.mesh = (-1, 8)
  config.training.sample_every = 10_000
  config.training.checkpoints = section(every=5000, multiples=20)
  return config


def pixels():
  """The same at 64x64."""
  config = at_256()
  config.data.update(dataset='imagenet_resized/64x64', image_shape=(64, 64, 3))
  config.training.batch_size = 2048
  return config


def get_config():
  config = pixels()
  config.schedule = section('cosine')
  config.network = section(
    'unet',
    channels=192,
    multipliers=(1, 2, 3, 4),
    num_blocks=3,
    attention_resolutions=(32, 16, 8),
    head_channels=64,
    dropout=0.1,
    qkv='new',
    scale_shift=True,
    resblock_updown=True,
    norm_eps=1e-5,
    noise_embedding='openai',
    initializer='torch',
    dtype='bfloat16',
    remat=True,
  )
  config.conditioning = section(labels=True)
  config.objective = section('hybrid')
  config.optimizer.learning_rate = 3e-4
  config.training.num_steps = 540_000
  config.sampling.sampler = section('ancestral', variance='learned')
  config.sampling.grid = section('respaced', steps='250')  # 1, 5, 9, ..., 1000
  return config

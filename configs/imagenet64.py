r"""ADM on ImageNet 64x64, class-conditional (Dhariwal & Nichol 2021).

docs/recipes.md section 3: 295,904,454 parameters, bfloat16 (float16 in the
release), sharded over eight devices; 540k steps of batch 2048. tfds prepares
the data set (docs/data.md), whose images were made smaller by another filter
than the release's. Samples take 250 of the 1000 steps: another number is set by
sampling.respacing, not sampling.num_steps. Not measured yet.

  python launch.py --config=configs/imagenet64.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config()
  config.data.name = 'tfds'
  config.data.tfds_name = 'imagenet_resized/64x64'
  config.data.test_split = 'validation'
  config.data.image_shape = (64, 64, 3)
  config.data.num_classes = 1000
  config.data.random_flip = True
  config.schedule.name = 'cosine'
  config.network.channels = 192
  config.network.multipliers = (1, 2, 3, 4)
  config.network.num_blocks = 3
  config.network.attention_resolutions = (32, 16, 8)
  config.network.head_channels = 64
  config.network.dropout = 0.1
  config.network.qkv = 'new'
  config.network.scale_shift = True
  config.network.resblock_updown = True
  config.network.norm_eps = 1e-5
  config.network.noise_embedding = 'openai'
  config.network.initializer = 'torch'
  config.network.learned_variance = True
  config.network.dtype = 'bfloat16'
  config.network.remat = True
  config.conditioning.labels = True
  config.objective.name = 'hybrid'
  config.optimizer.learning_rate = 3e-4
  config.optimizer.clip_norm = 0.0
  config.training.num_steps = 540_000
  config.training.batch_size = 2048
  config.training.mesh = (-1, 8)
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000
  config.training.keep_every = 100_000
  config.sampling.variance = 'learned'
  config.sampling.num_steps = 250  # the number that respacing keeps
  config.sampling.respacing = '250'  # 1, 5, 9, ..., 1000
  return base.with_argument(config, arg)

r"""DDPM on 32x32 crops of two photos that ship with scikit-learn: no download.

Colour images of CIFAR's size, to try everything on a CPU: 1,113,955 parameters,
photos of 160x107. Measured on 2 cores shared with other work: 8 min 28 s for
2,000 steps, test loss 0.020 on the unseen right-hand quarter; the mean loss of
the first hundred steps is 0.52, after 200 steps it is 0.07. Samples:
docs/images/photos.png.

  python launch.py --config=configs/photos.py
  python launch.py --config=configs/photos.py --workdir=runs/mine \
    --config.data.photo_shrink=8 --config.data.photos=one.jpg,two.jpg
"""

from configs import base


def get_config(arg=''):
  config = base.get_config()
  config.data.name = 'photos'
  config.data.photo_shrink = 4
  config.data.test_fraction = 0.25
  config.network.channels = 32
  config.network.multipliers = (1, 2, 2)
  config.network.num_blocks = 1
  config.network.attention_resolutions = (8,)
  config.network.num_groups = 8
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay = 'cosine'
  config.optimizer.decay_steps = config.training.get_oneway_ref('num_steps')
  config.training.num_steps = 2000
  config.training.batch_size = 16
  config.training.ema_decay = 0.999
  config.training.ema_warmup = True
  config.training.sample_every = 500
  config.training.checkpoint_every = 500
  config.training.evaluate_every = 500
  config.sampling.sampler = 'ddim'
  config.sampling.eta = 1.0  # 0 leaves noise in some of the images
  config.sampling.num_steps = 100
  config.sampling.num_samples = 36
  config.sampling.batch_size = 36
  return base.with_argument(config, arg)

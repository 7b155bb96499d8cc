r"""EDM2-S on ImageNet 64x64, class-conditional (Karras et al. 2024).

280,209,381 parameters, trained on 1024 Mi images in batches of 2048; FID 1.58
in the paper, by an average that is chosen after training. The arguments are the
other sizes (docs/networks.md). tfds prepares the data set (docs/data.md), whose
images were made smaller by another filter than the paper's. The release sets
gradients that are not finite to 0 and takes the step; here the step is left
out, up to ten times in a row. Not measured yet.

  python launch.py --config=configs/imagenet64_edm2.py
  python launch.py --config=configs/imagenet64_edm2.py:m   # or xs, l, xl
"""

from configs import base, imagenet64
from configs.base import section

SIZES = {  # channels, learning rate, dropout, steps: images / 2048
  'xs': (128, 0.012, 0.0, 524_288),
  '': (192, 0.010, 0.0, 524_288),
  'm': (256, 0.009, 0.1, 1_048_576),
  'l': (320, 0.008, 0.1, 524_288),
  'xl': (384, 0.007, 0.1, 327_680),
}
VARIANTS = 'xs', 'm', 'l', 'xl'


def get_config(arg=''):
  channels, learning_rate, dropout, num_steps = SIZES[arg]
  times = section('log_normal', mean=-0.8, std=1.6)
  config = base.edm(imagenet64.pixels(), num_steps=32, times=times)
  config.network = section('edm2', channels=channels, dropout=dropout, dtype='bfloat16', remat=True)
  config.conditioning = section(labels=True)
  config.objective.uncertainty = section('fourier')
  config.optimizer = section(
    'adam',
    learning_rate=learning_rate,
    warmup_steps=4883,  # 10M images
    decay='inverse_sqrt',
    decay_steps=35_000,
    b2=0.99,
    # The release has 1e-8 for a loss that is summed over pixels and channels;
    # the gradients of a mean are 12,288 times smaller.
    eps=1e-8 / (64 * 64 * 3),
    clip_norm=0.0,
  )
  config.training.update(random_flip=False, num_steps=num_steps)
  # Samples use the first; any other width is chosen afterwards (docs/training.md).
  config.training.average = section('powers', widths=(0.075, 0.05, 0.10), every=4096)  # 8 Mi images
  config.training.skip_nonfinite = 10
  return config

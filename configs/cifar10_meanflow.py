r"""MeanFlow on CIFAR-10 (Geng et al. 2025): one call of the network a sample.

The published recipe: EDM's DDPM++, 786M images in batches of 1,024; FID 2.92
with one call in the paper. The network has 56,062,595 parameters, the network
of py-meanflow 55,932,419: there the sinusoids of t and t - s have 256 features
each and enter the first dense layer together; here each has 128 and two dense
layers, whose outputs are added. The augmentation is EDM's with nine labels;
theirs has six, without rotations and vertical flips. Not trained here yet: not
measured. docs/few_steps.md has the method, and figures on the digits.

  python launch.py --config=configs/cifar10_meanflow.py
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.schedule = section('flow')
  config.network = section('ddpmpp', dropout=0.2, resample_filter=(1, 3, 3, 1))
  config.noise_input = section('time', scale=1.0)
  config.conditioning = section(augment=0.12)
  config.objective = section(
    'mean_flow',
    improved=False,
    adaptive_power=0.75,
    two_times=section(
      'independent', times=section('logit_normal', mean=-2.0, std=2.0), p_equal=0.25
    ),
  )
  config.optimizer.update(
    learning_rate=6e-4,
    warmup_steps=9_600,  # 200 epochs of 48 batches
    clip_norm=0.0,
    # The release has 1e-8 for e / (e + c)^0.75 of an error e that is summed
    # over pixels and channels; of the mean the gradient is smaller by this.
    eps=1e-8 / (32 * 32 * 3) ** 0.25,
  )
  config.training.random_flip = False  # flips are part of the augmentation
  config.training.num_steps = 768_000  # 16,000 epochs
  config.training.batch_size = 1024
  config.training.average = section(decay=0.9999, warmup=False, more=(0.99995, 0.9996))
  config.evaluation.metrics = ('fid',)
  return config

r"""MeanFlow on CIFAR-10 (Geng et al. 2025): one call of the network a sample.

The published recipe: EDM's DDPM++, 786M images in batches of 1,024; FID 2.92
with one call in the paper. The network has 56,062,595 parameters, that of
py-meanflow 55,932,419: there the sinusoids of t and t - s have 256 features
each and enter the first dense layer together; here each has 128 and two dense
layers, whose outputs are added. The augmentation is EDM's with nine labels;
theirs has six, without rotations and vertical flips. Not trained here yet: not
measured. docs/few_steps.md has the method, and figures on the digits.

  python launch.py --config=configs/cifar10_meanflow.py
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.data.random_flip = False  # flips are part of the augmentation
  config.schedule.name = 'flow'
  config.network.name = 'ddpmpp'
  config.network.dropout = 0.2
  config.network.resample_filter = (1, 3, 3, 1)
  config.conditioning.noise_input = 'time'
  config.conditioning.time_scale = 1.0
  config.objective.name = 'mean_flow'
  config.objective.parametrization = 'flow'
  config.objective.improved = False
  config.objective.power = 0.75
  config.objective.offset = 1e-3
  config.objective.times = 'logit_normal'
  config.objective.logit_normal_mean = -2.0
  config.objective.logit_normal_std = 2.0
  config.objective.equal = 0.25
  config.objective.augment = 0.12
  config.optimizer.learning_rate = 6e-4
  config.optimizer.warmup_steps = 9_600  # 200 epochs of 48 batches
  config.optimizer.clip_norm = 0.0
  # The release has 1e-8 for e / (e + c)^0.75 of an error e that is summed over
  # pixels and channels; of the mean the gradient is smaller by this factor.
  config.optimizer.eps = 1e-8 / (32 * 32 * 3) ** 0.25
  config.training.num_steps = 768_000  # 16,000 epochs
  config.training.batch_size = 1024
  config.training.ema_decay = 0.9999
  config.training.more_ema_decays = (0.99995, 0.9996)
  config.sampling.sampler = 'flow_map'
  config.sampling.num_steps = 1
  config.sampling.clip = False
  config.evaluation.metrics = ('fid',)
  return base.with_argument(config, arg)

r"""Variational diffusion on CIFAR-10, not augmented (Kingma et al. 2021).

The published recipe: 30.6M parameters at constant resolution, continuous time,
both ends of the schedule learned, 10M steps of batch 128; 2.65 bits per
dimension in the paper, 2.637 from its released code. Grey levels of the release
are 2/256 apart, here 2/255, so that the Fourier feature 2^7 has 1.004 periods
per level, not one (docs/vdm.md). Not trained here yet: not measured. test_loss
in metrics.jsonl is the bound on the test images in bits per dimension, at one
noise level per image. The backward pass stores the 32x32 feature maps of 67
blocks unless --config.network.remat=True.

  python launch.py --config=configs/cifar10_vdm.py
"""

from configs import base, cifar10


def get_config(arg=''):
  config = cifar10.shared()
  config.data.random_flip = False
  config.schedule.name = 'learned'
  config.network.name = 'vdm'
  config.conditioning.noise_input = 'logsnr'
  config.objective.name = 'vdm'
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 0.0
  config.optimizer.b2 = 0.99
  config.optimizer.weight_decay = 0.01
  config.optimizer.weight_decay_mask = 'not_biases'  # as released
  config.training.num_steps = 10_000_000
  config.training.sample_every = 50_000
  config.training.evaluate_every = 10_000
  config.training.evaluate_batches = 79  # all 10,000 images
  config.evaluation.decoder = 'categorical'
  config.evaluation.t_min = 0.0
  config.evaluation.dequantization = 'gaussian'
  config.sampling.clip = False
  return base.with_argument(config, arg)

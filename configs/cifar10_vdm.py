r"""Variational diffusion on CIFAR-10, not augmented (Kingma et al. 2021).

The published recipe: 30.6M parameters at constant resolution, continuous time,
both ends of the schedule learned, 10M steps of batch 128; 2.65 bits per
dimension in the paper, 2.637 from its released code. Grey levels of the release
are 2/256 apart, here 2/255, so that the Fourier feature 2^7 has 1.004 periods
per level, not one (docs/networks.md). Not trained here yet: not measured.
test_loss in metrics.jsonl is the bound on the test images in bits per
dimension, at one noise level per image. The backward pass stores the 32x32
feature maps of 67 blocks unless --config.network.remat=True.

  python launch.py --config=configs/cifar10_vdm.py
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.schedule = section('learned')
  config.network = section('vdm')
  config.noise_input = section('logsnr')
  config.objective = section('vdm')
  config.optimizer.update(
    warmup_steps=100,
    clip_norm=0.0,
    b2=0.99,
    weight_decay=0.01,
    weight_decay_mask='not_biases',  # as released
  )
  config.training.update(random_flip=False, num_steps=10_000_000)
  config.training.sample_every = 50_000
  config.training.held_out = section(every=10_000, batches=79)  # all 10,000 images
  config.evaluation.elbo = section(decoder='categorical')
  config.evaluation.ode = section(t_min=0.0, dequantization='gaussian')
  config.sampling.bound = None
  return config

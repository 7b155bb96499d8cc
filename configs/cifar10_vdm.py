r"""Variational diffusion on CIFAR-10, not augmented (Kingma et al. 2021).

The published recipe: 30.6M parameters at constant resolution, continuous time,
a schedule of which both ends are learned, 10M steps of batch 128; 2.65 bits per
dimension in the paper, 2.637 from the code that was released with it. Not the
release's spacing of grey levels: theirs are 2/256 apart, ours 2/255, so that
the Fourier feature 2^7 has 1.004 periods per level, not one (docs/vdm.md). Not
trained here yet: not measured.

  python -m diffusion_jax.data.prepare cifar10       # where there is a network
  python launch.py --config=configs/cifar10_vdm.py
  python launch.py --config=configs/cifar10_vdm.py --mode=sample
  python launch.py --config=configs/cifar10_vdm.py:smoke # synthetic pictures

test_loss in metrics.jsonl is the bound on the test images in bits per
dimension, at one noise level per image; every 32 x 32 feature map of 67 blocks
is stored for the backward pass unless --config.network.remat=True.
"""

from configs import base


def get_config(arg=''):
  """The network, schedule, optimiser and sampler of the paper's model."""
  config = base.get_config()
  config.data.name = 'cifar10'
  config.data.num_classes = 10

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
  config.training.checkpoint_every = 5000
  config.training.evaluate_every = 10_000
  config.training.evaluate_batches = 79  # all 10,000 images
  config.evaluation.decoder = 'categorical'
  config.evaluation.t_min = 0.0
  config.evaluation.dequantization = 'gaussian'

  config.sampling.clip = False
  return base.with_argument(config, arg)

r"""Class-conditional diffusion on MNIST, 28x28 grey: minutes on two CPU cores.

The improved DDPM's cosine betas, T = 1000; v is predicted with the weight
max(SNR, 1); a U-Net of 1,114,209 parameters with feature maps of 28, 14 and 7
pixels. The first command is optional: training downloads the set, 12 MB.

  python -m diffusion_jax.data.prepare mnist
  python launch.py --config=configs/mnist.py
  python launch.py --config=configs/mnist.py --mode=sample

Measured on two cores of an EPYC: 24 min, cold, 35 min of processor time; the
classifier of mnist_classifier.py assigns 98.7 % +- 0.3 of 2,000 samples to the
requested class with the guidance of scale 1.5, 93 % without (docs/results.md).
Other networks at equal time: docs/results.md.

:unconditional has no labels. :jit is a transformer of 727,984 parameters that
predicts x_0 (Li & He 2025): 12 min of processor time on one core, 99.1 % +- 0.2
with the guidance 2, and less variety. :gpu is a network of 6,472,705 parameters
in bfloat16, 20,000 steps of 128 images, for a GPU: not run yet.
"""

from configs import base, imagenet256_jit
from configs.base import section

VARIANTS = 'unconditional', 'jit', 'gpu'


def get_config(arg=''):
  config = base.short(2000, steps_per_call=10)
  config.data = section('mnist')
  config.network = section(
    'unet', channels=32, multipliers=(1, 2, 2), num_blocks=1, attention_resolutions=(7,)
  )
  config.schedule = section('cosine')
  config.parametrization = section('v')
  config.objective = section('denoising', weight='truncated_snr')
  config.conditioning = section(labels=True, dropout=0.1)
  config.sampling.sampler = section('dpm_solver_pp')
  config.sampling.num_steps = 20
  config.sampling.guidance = section('classifier_free', scale=1.5)
  if arg == 'unconditional':
    config.conditioning = section()
    del config.sampling.guidance
  elif arg == 'jit':
    config.network = section(
      'dit',
      channels=96,
      num_blocks=4,
      num_heads=4,
      patch_size=4,
      bottleneck=16,
      **imagenet256_jit.OPTIONS,
    )
    config = imagenet256_jit.predict_x0(config)
    config.objective.times = section('logit_normal')
    config.optimizer.b2 = 0.999
    config.training.num_steps = 3300
    config.sampling.sampler.min_sigma = 0.05
    config.sampling.num_steps = 10
    config.sampling.guidance.scale = 2.0
  elif arg == 'gpu':
    config.network.update(channels=64, num_blocks=2, dropout=0.1, dtype='bfloat16')
    config.optimizer.update(learning_rate=5e-4, warmup_steps=500)
    config.training.update(
      num_steps=20_000,
      batch_size=128,
      average=section(decay=0.9995),
      sample_every=2000,
      checkpoints=section(every=2000),
      held_out=section(every=2000),
    )
  return config

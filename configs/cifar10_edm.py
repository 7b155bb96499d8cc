r"""EDM on CIFAR-10 (Karras et al. 2022): DDPM++, non-leaky augmentation.

The published recipe: 55.7M parameters, 200M images in batches of 512; FID 1.97
without labels and 1.79 with them in the paper, by 35 network calls of Heun's
method. Not trained here yet: not measured.

  python -m diffusion_jax.data.prepare cifar10       # where there is a network
  python launch.py --config=configs/cifar10_edm.py
  python launch.py --config=configs/cifar10_edm.py:conditional
  python launch.py --config=configs/cifar10_edm.py --mode=sample
  python launch.py --config=configs/cifar10_edm.py:smoke # synthetic pictures
  python launch.py --config=configs/cifar10_edm.py:conditional_smoke

docs/edm.md says which field is which number of the paper.
"""

from configs import base


def get_config(arg=''):
  """Network, loss, augmentation, optimiser and averages of the paper's model.

  arg: '', conditional (the network is given the classes), smoke,
  conditional_smoke.
  """
  known = 'conditional', 'smoke', 'conditional_smoke'
  if arg and arg not in known:
    raise ValueError(
      f'the argument of this config is one of {", ".join(known)}, not {arg!r}'
    )
  conditional = arg.startswith('conditional')
  rest = arg.removeprefix('conditional').removeprefix('_')
  config = base.get_config()
  config.data.name = 'cifar10'
  config.data.num_classes = 10

  config.schedule.name = 'karras'

  config.network.name = 'ddpmpp'
  config.network.dropout = 0.13

  config.conditioning.noise_input = 'edm'
  config.conditioning.labels = conditional

  config.objective.parametrization = 'edm'
  config.objective.weight = 'edm'
  config.objective.times = 'log_normal'
  config.objective.augment = 0.12

  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 19_531  # 10M images
  config.optimizer.clip_norm = 0.0
  config.optimizer.repair_gradients = True

  config.training.num_steps = 390_625  # 200M images
  config.training.batch_size = 512
  config.training.ema_half_life = 500_000.0
  config.training.ema_rampup = 0.05
  config.training.sample_every = 10_000
  config.training.checkpoint_every = 5000

  config.sampling.sampler = 'heun'  # 35 calls of the network
  config.sampling.num_steps = 18
  config.sampling.clip = False
  return base.with_argument(config, rest)

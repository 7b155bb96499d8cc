r"""Easy consistency training on CIFAR-10 (ECT, Geng et al. 2024), from EDM.

The published recipe: a run of cifar10_edm is tuned on 25.6M images, and its
denoiser becomes a consistency function in eight stages. FID 3.86 with one call
and 2.15 with two in the paper. In the release f(x) = x holds at sigma = 0 in
training and at 0.003 in sampling, here at 1e-6 in both. Not trained here yet:
not measured.

  python launch.py --config=configs/cifar10_edm.py
  python launch.py --config=configs/cifar10_ect.py
  python launch.py --config=configs/cifar10_ect.py --mode=evaluate \
    --config.sampling.num_steps=2
"""

from configs import base, cifar10_edm
from configs.base import section


def get_config():
  config = base.as_flow_map(cifar10_edm.get_config())
  # No level that is drawn in training is below 1e-6. rho places the levels of
  # sampling only: the second of two calls is at sigma = 0.821, as published.
  config.schedule = section('karras', sigma_min=1e-6, rho=7.538)
  config.network.dropout = 0.2
  config.conditioning.augment = 0.0
  config.objective = section(
    'consistency_training',
    pairs=section(
      'easy',
      steps_per_stage=25_000,  # 3.2M images
      times=section('log_normal', mean=-1.1, std=2.0),
    ),
    distance=section('pseudo_huber', offset=0.0),
  )
  config.optimizer.update(
    name='radam',
    learning_rate=1e-4,
    warmup_steps=0,
    eps=1e-8,  # the norm is not a mean: gradients are as in the release
  )
  config.training.update(start=section('weights', run='runs/cifar10_edm'), num_steps=200_000)
  config.training.batch_size = 128
  config.training.average = section('decay', warmup=False)
  config.sampling.update(num_steps=1, stochastic=True)
  config.evaluation.metrics = ('fid',)
  return config

r"""Score SDEs on CIFAR-10 (Song et al. 2021), trained in continuous time.

The argument chooses the SDE, vp, subvp or ve; `_smoke` makes it a trial. The
recipe of docs/recipes.md section 5: t ~ U(1e-5, 1), 1.3M steps of batch 128.
Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_vp.py
  python launch.py --config=configs/cifar10_vp.py:subvp
  python launch.py --config=configs/cifar10_vp.py:ve
  python launch.py --config=configs/cifar10_vp.py:smoke     # of vp
  python launch.py --config=configs/cifar10_vp.py:ve_smoke

The network is DDPM++, for VE with the random frequencies of NCSN++ (not with
its FIR filters and input pyramid, so it is smaller than theirs). It predicts
eps, so that score * std + z is its error; for VE theirs predicts -eps and the
loss is a sum over the pixels, which only clipping can tell from the mean here.
Images lie in [-1, 1]; theirs lie in [0, 1] for VE, so the noise here, sigma =
0.02 to 100, is twice the published 0.01 to 50. Samples are drawn by 1000 steps
of Euler-Maruyama, for VE of reverse diffusion, each after one step of
Langevin's corrector: 2000 calls of the network.
"""

from configs import base, cifar10

SCHEDULES = {'vp': 'linear_vp', 'subvp': 'sub_vp', 've': 'geometric_ve'}


def get_config(arg=''):
  """arg: '', vp, subvp, ve, smoke, vp_smoke, subvp_smoke, ve_smoke."""
  sde, smoke = arg, ''
  if arg.endswith('smoke'):
    sde, smoke = arg.removesuffix('smoke').removesuffix('_'), 'smoke'
  sde = sde or 'vp'
  if sde not in SCHEDULES:
    known = ', '.join(SCHEDULES)
    raise ValueError(
      f'the argument of this config is one of {known}, smoke, or one of them '
      f"with _smoke, not '{arg}'"
    )
  config = cifar10.shared()
  config.schedule.name = SCHEDULES[sde]
  if sde == 've':  # twice the published 0.01 and 50, of data in [0, 1]
    config.schedule.sigma_min = 0.02
    config.schedule.sigma_max = 100.0

  config.network.name = 'ddpmpp'
  config.network.noise_embedding = 'fourier' if sde == 've' else 'ho'
  config.network.multipliers = (1, 2, 2, 2)
  config.network.dropout = 0.1

  if sde == 've':
    config.conditioning.noise_input = 'log_sigma'
  else:
    config.conditioning.noise_input = 'time'
    config.conditioning.time_scale = 999.0

  config.objective.times = 'uniform'
  config.objective.t_min = 1e-5

  config.training.num_steps = 1_300_000
  config.training.ema_decay = 0.999 if sde == 've' else 0.9999

  config.sampling.sampler = 'euler_maruyama'
  if sde == 've':
    config.sampling.sampler = 'reverse_diffusion'
    config.sampling.corrector_steps = 1
  config.sampling.clip = False
  return base.with_argument(config, smoke)

r"""Score SDEs on CIFAR-10 (Song et al. 2021), trained in continuous time.

The argument chooses the SDE: vp, subvp or ve. The recipe is in
docs/weights.md: t ~ U(1e-5, 1), 1.3M steps of batch 128. Not trained
here yet: not measured.

  python launch.py --config=configs/cifar10_vp.py
  python launch.py --config=configs/cifar10_vp.py:subvp
  python launch.py --config=configs/cifar10_vp.py:ve
  python launch.py --config=configs/cifar10_vp.py:ve_smoke

The network is DDPM++ (61.8M parameters), for VE NCSN++ (62.8M). It predicts
eps, so score * std + z is its error; for VE theirs predicts -eps and the loss
is half the sum over the pixels, so that clipping and Adam's eps are 1536 times
smaller here.
Samples are drawn by 1000 steps of Euler-Maruyama, for VE of reverse diffusion,
each after one step of Langevin's corrector: 2000 calls of the network.
"""

from configs import cifar10
from configs.base import section

VARIANTS = 'vp', 'subvp', 've'


def get_config(arg=''):
  config = cifar10.shared()
  config.schedule = section('sub_vp' if arg == 'subvp' else 'linear_vp')
  config.network = section('ddpmpp', multipliers=(1, 2, 2, 2), dropout=0.1)
  config.noise_input = section('time', scale=999.0)
  config.objective = section('denoising', times=section('uniform', t_min=1e-5))
  config.training.num_steps = 1_300_000
  config.sampling.sampler = section('euler_maruyama')
  config.sampling.bound = None

  if arg == 've':
    # These are twice the published 0.01 and 50: images lie in [-1, 1] here, and
    # for VE in [0, 1] in the paper.
    config.schedule = section('geometric_ve', sigma_min=0.02, sigma_max=100.0)
    config.network.update(
      noise_embedding='fourier', resample_filter=(1, 3, 3, 1), input_pyramid=True
    )
    config.noise_input = section('log_sigma')
    config.optimizer.update(clip_norm=1.0 / 1536, eps=1e-8 / 1536)
    config.training.average.decay = 0.999
    config.sampling.sampler = section('reverse_diffusion')
    config.sampling.corrector = section('langevin')

  return config

"""Schedulers of diffusers with their default options, without clipping."""

import diffusers
import torch

from benchmarks.peers import tensors
from benchmarks.peers.methods import Method, label, mixture


def plain(name: str, order: int, why: str = '', **options) -> Method:
  """Returns the row of a scheduler on the mixture."""
  make = getattr(diffusers, name)
  last = float(make(**options).alphas_cumprod[-1])

  def draw(problem, noise, num_steps, rng):
    torch.manual_seed(rng.integers(2**31))
    scheduler = make(**options)
    scheduler.set_timesteps(num_steps)
    return run(scheduler, tensors.denoiser(problem), torch.from_numpy(noise))

  return Method(label(name, options), draw, mixture((1.0 / last - 1.0) ** 0.5), order, why)


def run(scheduler, denoise, x):
  """Draws by the loop of a pipeline whose network predicts eps.

  x: alpha = 1 at the last training step. Some schedulers keep alpha = 1, and
  others alpha^2 + sigma^2 = 1.
  """
  preserves_variance = scheduler.init_noise_sigma == 1.0
  if preserves_variance:
    x = x * scheduler.alphas_cumprod[-1].double().sqrt()
  for i, t in enumerate(scheduler.timesteps):
    if hasattr(scheduler, 'sigmas'):
      sigma = scheduler.sigmas[i].double()
    else:
      sigma = (1.0 / scheduler.alphas_cumprod[t].double() - 1.0).sqrt()
    alpha = (1.0 + sigma**2).rsqrt() if preserves_variance else 1.0
    eps = (x - alpha * denoise(x, alpha * sigma, alpha)) / (alpha * sigma)
    scheduler.scale_model_input(x, t)
    x = scheduler.step(eps, t, x).prev_sample
  return x.double().numpy()


KARRAS = {'use_karras_sigmas': True}
UNCLIPPED = {'clip_sample': False}
STRIDE = 'step() goes to t - 1000 // N, which is not the next t: `diffusers_ddim.py`'
LAST = 'its last step is one of Euler from the least training level, 0.029, for every N'
ENDS = 'its last step is of order 1, from t = 1000 / N, and its error is what is left'
METHODS = [
  plain('DDIMScheduler', 1, **UNCLIPPED),
  plain('DDIMScheduler', 1, STRIDE, **UNCLIPPED, timestep_spacing='trailing'),
  plain('DDPMScheduler', 1, **UNCLIPPED),
  plain('EulerDiscreteScheduler', 1),
  plain('HeunDiscreteScheduler', 2, LAST),
  plain('DPMSolverMultistepScheduler', 2),
  plain('DPMSolverMultistepScheduler', 2, **KARRAS),
  plain('UniPCMultistepScheduler', 3, ENDS),
  plain('UniPCMultistepScheduler', 3, **KARRAS),
]

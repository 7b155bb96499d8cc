"""Samplers of azula, on the schedule of its README, `VPSchedule`."""

import torch
from azula import sample
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance.dps import DPSSampler
from azula.guidance.mmps import MMPSDenoiser
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule

from benchmarks.peers import tensors
from benchmarks.peers.methods import Method, given_y, mixture

SIGMA_MAX = 1e3  # sigma / alpha at t = 1
STEPS = 64, 128, 256, 512


class Exact(Denoiser):
  """The exact denoiser of a problem."""

  def __init__(self, problem):
    super().__init__()
    self.schedule = VPSchedule()
    self.denoise, self.shape = tensors.denoiser(problem), problem.shape

  def forward(self, x_t, t, **kwargs):
    """Returns E[x_0 | x_t] of rows."""
    alpha, sigma = self.schedule(t)
    x0 = self.denoise(x_t.reshape(-1, *self.shape), sigma, alpha)
    return DiracPosterior(x0.reshape(x_t.shape))


def plain(name: str, order: int, why: str = '') -> Method:
  """Returns the row of a sampler on the mixture."""

  def draw(problem, noise, num_steps, rng):
    return run(getattr(sample, name)(Exact(problem), **settings(num_steps)), noise, rng)

  return Method(name, draw, mixture(SIGMA_MAX), order, why, STEPS)


def settings(num_steps: int) -> dict:
  """Returns what all samplers take."""
  return {'steps': num_steps, 'silent': True, 'dtype': torch.float64}


def run(sampler: sample.Sampler, noise, rng):
  """Draws by a sampler; it works on rows."""
  torch.manual_seed(rng.integers(2**31))
  alpha = sampler.denoiser.schedule(torch.ones((), dtype=torch.float64))[0]
  x = alpha * torch.from_numpy(noise.reshape(len(noise), -1))
  return sampler(x).numpy().reshape(noise.shape)


def dps(problem, noise, num_steps, rng):
  """Draws by DPS with its default strength."""
  y, forward = measurement(problem)
  return run(DPSSampler(Exact(problem), y, forward, **settings(num_steps)), noise, rng)


def mmps(problem, noise, num_steps, rng):
  """Draws by MMPS with DDPM's steps."""
  y, forward = measurement(problem)
  cov_y = IsotropicCovariance(problem.measurement.std**2)
  guided = MMPSDenoiser(Exact(problem), y, forward, cov_y)
  return run(sample.DDPMSampler(guided, **settings(num_steps)), noise, rng)


def measurement(problem):
  """Returns y and A."""
  matrix = torch.from_numpy(problem.measurement.matrix)
  return torch.from_numpy(problem.measurement.y), lambda x: x @ matrix.T


BATCH = 'p(y given x_t) is approximate; the norm of the residual is over the batch'
REAB = 'the integral has the factor of sigma_t, not of sigma_s: `azula_reab.py`'
GMRES = 'its solver makes one iteration by default, and the mean stays 0.044 off'
METHODS = [
  plain('DDIMSampler', 1),
  plain('HeunSampler', 2),
  plain('zABSampler', 2),
  plain('vABSampler', 2),
  plain('xEABSampler', 2),
  plain('REABSampler', 2, REAB),
  plain('DDPMSampler', 1),
  plain('ItoSampler', 1),
  given_y('DPSSampler', dps, SIGMA_MAX, BATCH, STEPS),
  given_y('MMPSDenoiser', mmps, SIGMA_MAX, GMRES, STEPS),
]

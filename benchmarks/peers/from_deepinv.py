"""SDEs and posterior samplers of deepinv."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks import torch_packages
from benchmarks.peers import tensors
from benchmarks.peers.methods import Method, given_y, mixture

torch_packages.declare_operators()

import deepinv  # noqa: E402
from deepinv import sampling  # noqa: E402


class Exact(deepinv.models.Denoiser):
  """The exact denoiser of a problem."""

  def __init__(self, problem):
    super().__init__()
    self.denoise = tensors.denoiser(problem)

  def forward(self, x, sigma, *args, **kwargs):
    """Returns E[x_0 | x]."""
    return self.denoise(x, sigma)


def solver(name: str, num_steps: int, rng) -> sampling.BaseSDESolver:
  """Returns a solver on even times from 1 to 0."""
  generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
  times = torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)
  return getattr(sampling, name)(timesteps=times, rng=generator)


def plain(name: str, alpha: float, order: int) -> Method:
  """Returns the row of a solver of the variance-exploding SDE."""

  def draw(problem, noise, num_steps, rng):
    sde = sampling.VarianceExplodingDiffusion(
      Exact(problem), alpha=alpha, solver=solver(name, num_steps, rng), minus_one_one=False
    )
    return sde.sample(torch.from_numpy(noise)).numpy()

  return Method(f'{name}, alpha={alpha:g}', draw, mixture(80.0), order)


def guided(fidelity: Callable, why: str = '') -> Method:
  """Returns the row of a data fidelity, with DDPM's steps."""

  def draw(problem, noise, num_steps, rng):
    y, physics = measurement(problem)
    model = sampling.PosteriorDiffusion(
      fidelity(),
      Exact(problem),
      sampling.VarianceExplodingDiffusion(alpha=1.0),
      solver('DDPMSolver', num_steps, rng),
      minus_one_one=False,
    )
    y = y.expand(len(noise), *y.shape[1:])
    return model(y, physics, x_init=torch.from_numpy(noise)).numpy()

  return given_y(fidelity.__name__, draw, 80.0, why)


def ddrm(problem, noise, num_steps, rng):
  """Draws by DDRM with its default options, from sigma = 80."""
  torch.manual_seed(rng.integers(2**31))
  y, physics = measurement(problem)
  sigmas = np.append(np.geomspace(80.0, 0.001, num_steps), 0.0)
  y = y.expand(len(noise), *y.shape[1:])
  return sampling.DDRM(Exact(problem), sigmas)(y, physics).numpy()


def measurement(problem):
  """Returns y as an image [1, 1, height, width], and the inpainting."""
  matrix, y, std = problem.measurement
  image = torch.from_numpy(y @ matrix).reshape(1, *problem.shape)
  mask = torch.from_numpy(matrix.sum(axis=0)).reshape(problem.shape)
  noise = deepinv.physics.GaussianNoise(std)
  physics = deepinv.physics.Inpainting(problem.shape, mask, noise_model=noise)
  return image, physics


POINT = 'p(x_0 given x_t) is taken to be a point, and the norm is not squared'
ISOTROPIC = 'p(x_0 given x_t) is taken to be isotropic'
SQRT_2 = 'its noise is divided by the root of 2: `deepinv_ddrm.py`'
METHODS = [
  plain('EulerSolver', 0.0, 1),
  plain('HeunSolver', 0.0, 2),
  plain('DDIMSolver', 0.0, 1),
  plain('DDPMSolver', 1.0, 1),
  plain('HeunSolver', 1.0, 1),
  guided(sampling.DPSDataFidelity, POINT),
  guided(sampling.PiGDMDataFidelity, ISOTROPIC),
  guided(sampling.MomentMatchingDataFidelity),
  given_y('DDRM', ddrm, 80.0, SQRT_2),
]

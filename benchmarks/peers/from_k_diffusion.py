"""Samplers of k-diffusion on its grid `get_sigmas_karras`, rho = 7."""

import importlib.util
import sys
import types

import torch

from benchmarks import torch_packages
from benchmarks.peers import tensors
from benchmarks.peers.methods import Method, mixture


def load() -> types.ModuleType:
  """Returns `k_diffusion.sampling`.

  `import k_diffusion` loads CLIP, which needs an older setuptools than torch;
  no sampler needs it.
  """
  if 'k_diffusion' not in sys.modules:
    torch_packages.declare_operators()
    package = types.ModuleType('k_diffusion')
    spec = importlib.util.find_spec('k_diffusion')
    package.__path__ = spec.submodule_search_locations
    sys.modules['k_diffusion'] = package
  return importlib.import_module('k_diffusion.sampling')


def plain(name: str, order: int, why: str = '') -> Method:
  """Returns the row of a sampler on the mixture."""

  def draw(problem, noise, num_steps, rng):
    torch.manual_seed(rng.integers(2**31))
    sampling = load()
    sigmas = sampling.get_sigmas_karras(num_steps, problem.sigma_min, problem.sigma_max)
    x, denoise = torch.from_numpy(noise), tensors.denoiser(problem)
    return getattr(sampling, name)(denoise, x, sigmas, disable=True).numpy()

  return Method(name, draw, mixture(80.0), order, why)


LMS = 'its first steps have lower orders; from 128 to 256 steps the order is 3.8'
METHODS = [
  plain('sample_euler', 1),
  plain('sample_heun', 2),
  plain('sample_lms', 4, LMS),
  plain('sample_dpmpp_2m', 2),
  plain('sample_euler_ancestral', 1),
  plain('sample_dpmpp_sde', 1),
  plain('sample_dpmpp_2m_sde', 1),
]
load()

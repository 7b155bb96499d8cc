"""Parameters learned together with the network's: VDM's schedule and EDM2's log-variance."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.declared import declares
from diffusion_jax.networks import edm2
from diffusion_jax.networks.gamma import GammaFn, LinearGamma, MonotoneGamma
from diffusion_jax.ranges import Finite, Size


@declares(what='α² = sigmoid(−γ(t))', needs='a training')
def learned_schedule(
  gamma: Literal['scalar', 'network', 'fixed'] = 'scalar',
  gamma_min: Finite = -13.3,
  gamma_max: Finite = 5.0,
) -> dj.LearnedSchedule:
  """Makes VDM's schedule, gamma(t) = -log SNR(t) (Kingma et al. 2021).

  gamma: scalar is a line with learned ends, network a line plus a monotone
  network, and fixed a line that is not trained. gamma_min and gamma_max are the
  initial values at t = 0 and 1.
  """
  if not gamma_min < gamma_max:
    what = f'is not below gamma_max={gamma_max}'
    raise ValueError(f'gamma_min={gamma_min} {what}')
  module = LinearGamma(gamma_min, gamma_max, learned=gamma != 'fixed')
  if gamma == 'network':
    module = MonotoneGamma(gamma_min, gamma_max)
  return dj.LearnedSchedule({}, GammaFn(module))


@dataclasses.dataclass(frozen=True)
class LogVariance:
  """Learns EDM2's u(sigma), the logarithm of the error at each level.

  Karras et al. 2024, Eq. 14 to 16. features: number of random Fourier features.
  Called with parameters and a level it returns u, [B].
  """

  features: Size = 128

  def init(self, key: jax.Array) -> Mapping[str, object]:
    """Returns the first parameters."""
    return edm2.Uncertainty(self.features).init(key, np.zeros(1))['params']

  def __call__(self, params: Params, level: dj.NoiseLevel) -> PyTree:
    """Returns u [B]; its input is ln(sigma / alpha) / 4 for any network."""
    variables = {'params': params['uncertainty']}
    return edm2.Uncertainty(self.features).apply(variables, dj.edm_input(level))

  constrain = staticmethod(edm2.Uncertainty.constrain)

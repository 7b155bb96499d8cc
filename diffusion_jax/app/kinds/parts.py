"""Choices that join a network, a sampler and an objective, which know nothing of one another."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core import losses
from diffusion_jax.core.keys import stream
from diffusion_jax.few_steps import distillation
from diffusion_jax.networks import edm2
from diffusion_jax.networks.gamma import GammaFn, LinearGamma, MonotoneGamma
from diffusion_jax.paths import RunPath
from diffusion_jax.ranges import Finite, NoiseRatio, NonNegative, Probability, Several, Size
from diffusion_jax.sampling.guidance import PairedDenoiser
from diffusion_jax.training import objectives


def learned(
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


def autoguidance(
  pair: PairedDenoiser,
  scale: jax.Array | Finite,
  run: RunPath,
  rescale: Probability = 0.0,
  interval: tuple[NonNegative, NoiseRatio] = (0.0, float('inf')),
  channels: Size | None = None,
) -> dj.Denoiser:
  """Guides by a worse model: worse + scale (model - worse).

  Karras et al. 2024. See `classifier_free`.

  Args:
    run: the worse model's run folder
  """
  return dj.classifier_free(pair, scale, rescale, interval, channels)


def feynman_kac(scale: Finite, particles: Several = 16, run: RunPath = '') -> dj.Sampler:
  """Draws from the law cond^scale uncond^(1 - scale), by weighted particles.

  Skreta et al. 2025.

  Args:
    particles: of each sample, which is one of them
    run: of a worse model in place of uncond; '': the network without its condition
  """
  return dj.one_of(dj.feynman_kac((scale, 1.0 - scale)), particles)


def reflow(
  network: dj.Network,
  schedule: dj.Schedule,
  times: losses.TimeSampler,
  teacher: distillation.Teacher,
  weight: losses.Weight = dj.flow_weight,
  p_t1: Probability = 0.0,
  teacher_steps: Size = 16,
) -> objectives.Objective:
  """Makes rectified flow's loss on the teacher's samples (Liu et al. 2022).

  The pairs are noise and the sample that teacher_steps of UniPC make of it.
  p_t1: the probability of t = 1.
  """
  levels = dj.level_grid(schedule, teacher_steps)
  key = stream(0, 'teacher')  # UniPC draws nothing

  def solve(denoise, x1):
    return dj.sample(key, denoise, dj.unipc(), levels, x1)

  times = losses.with_start(times, p_t1)
  pairs = distillation.sampling_teacher(teacher, solve)
  return distillation.reflow(network, schedule, times=times, weight=weight, teacher=pairs)

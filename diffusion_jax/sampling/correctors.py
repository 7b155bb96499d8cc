"""Langevin steps, churn and ancestral noise: functions sampler -> sampler.

A corrector is a function (key, x, denoise, level) -> x at the same level.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import (
  check_interval,
  expand_to,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule, select_level
from diffusion_jax.core.parametrization import score_from_x0
from diffusion_jax.core.process import forward_step, snr_ratio
from diffusion_jax.declared import declares
from diffusion_jax.ranges import NoiseRatio, NonNegative, Positive, Probability, Size
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@needed('a corrector, such as langevin()')
class Corrector(Protocol):
  """A step that keeps the noise level of x."""

  def __call__(self, key: Key, x: Array, denoise: Denoiser, level: NoiseLevel, /) -> Array:
    """Returns a new x [B, ...] at the same level, []."""
    ...


@checked
def langevin(snr: NonNegative = 0.16) -> Corrector:
  """Makes a corrector of one Langevin step (Song et al. 2021, Alg. 4 and 5).

  It returns x + e score + sqrt(2 e) z with e = 2 (snr |z| / |score|)^2 for each
  example, for images: in few dimensions the norm of a score comes close to 0.
  Alg. 5's factor alpha_i, which is close to 1, is left out. snr: the
  signal-to-noise ratio of the step; ValueError for < 0.
  """

  def correct(key, x, denoise, level):
    score = score_from_x0(predict(denoise, x, level).x0, x, level)
    # Clean elements stay. They have no score.
    z = jnp.where(level.expand_to(x).sigma > 0.0, draw_normal(key, x), 0.0)
    tiny = jnp.finfo(x.dtype).tiny
    size = 2.0 * snr**2 * _square_norm(z) / (_square_norm(score) + tiny)
    return x + size * score + jnp.sqrt(2.0 * size) * z

  return correct


@checked
def with_corrector(sampler: Sampler, corrector: Corrector, num_steps: Size = 1) -> Sampler:
  """Adds corrector steps at level t before each step of a sampler.

  This is predictor-corrector sampling (Song et al. 2021, Alg. 1-3) in the order
  of their code, without a corrector after the step to clean data. sampler must
  not have a memory of earlier x; num_steps: corrector steps at each level, at
  least 1.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    keys = split_key(key, 1 + num_steps)

    def body(x, key):
      return corrector(key, x, denoise, level_t), None

    x, _ = jax.lax.scan(body, x, keys[1:])
    return sampler.step(keys[0], x, state, denoise, level_s=level_s, level_t=level_t)

  return Sampler(sampler.init, step)


@declares(what='NCSN Alg. 1', calls='num_steps * N + 1', draws_noise=True)
@checked
def annealed_langevin(num_steps: Size = 100, step_size: NonNegative = 0.2) -> Sampler:
  """Makes the sampler of annealed Langevin dynamics (Song & Ermon, Alg. 1).

  At every level it makes num_steps steps x + a / 2 score + sqrt(a) z with a =
  step_size sigma^2, then rescales x by alpha_s / alpha_t (x itself if alpha_t =
  0; their levels have alpha = 1). The step to clean data returns x_0 (Song &
  Ermon 2020). The paper's step_size is 2e-5 / 0.01^2 = 0.2. ValueError for
  num_steps < 1 and step_size < 0.
  """

  def correct(key, x, denoise, level):
    score = score_from_x0(predict(denoise, x, level).x0, x, level)
    size = step_size * level.expand_to(x).sigma ** 2
    return x + 0.5 * size * score + jnp.sqrt(size) * draw_normal(key, x)

  def step(key, x, state, denoise, *, level_s, level_t):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    clean = s.sigma == 0.0
    ratio = s.alpha / jnp.where(t.alpha > 0.0, t.alpha, s.alpha)
    kept = ratio * x

    def estimate():
      return predict(denoise, x, level_t).x0

    if jnp.ndim(level_s.sigma):
      return jnp.where(clean, estimate(), kept), state
    clean = jnp.reshape(clean, ())
    return jax.lax.cond(clean, estimate, lambda: kept), state

  return with_corrector(Sampler(lambda x: (), step), correct, num_steps)


@checked
def churn(
  sampler: Sampler,
  schedule: Schedule,
  gamma: NonNegative,
  s_min: NonNegative = 0.0,
  s_max: NoiseRatio = float('inf'),
  s_noise: NonNegative = 1.0,
) -> Sampler:
  """Adds noise before each step of a sampler (Karras et al. 2022, Alg. 2).

  The noise raises the level to (1 + gamma) sigma / alpha, except at alpha = 0
  and at the end of the schedule.

  Args:
    sampler: A sampler without a memory of earlier x.
    schedule: Gives the raised level.
    gamma: See `churn_gamma`; ValueError for < 0.
    s_min, s_max: The range of sigma / alpha in which noise is added; ValueError
      if it is empty.
    s_noise: Scale of the added noise.
  """
  check_interval('no level would be churned', s_min=s_min, s_max=s_max)

  def step(key, x, state, denoise, *, level_s, level_t):
    noise_key, key = split_key(key, 2)
    has_signal = (level_t.alpha > 0.0) & (level_t.sigma > 0.0)
    logsnr = jnp.where(has_signal, level_t.logsnr, 0.0)
    ratio = jnp.exp(-0.5 * logsnr)
    noisier = schedule.from_logsnr(logsnr - 2.0 * jnp.log1p(gamma))
    churned = has_signal & (s_min <= ratio) & (ratio <= s_max)
    churned &= noisier.logsnr < logsnr
    level = select_level(churned, noisier, level_t)
    z = s_noise * draw_normal(noise_key, x)
    x = jnp.where(expand_to(churned, x), forward_step(x, z, level_t, level), x)
    return sampler.step(key, x, state, denoise, level_s=level_s, level_t=level)

  return Sampler(sampler.init, step)


@checked
def with_ancestral_noise(sampler: Sampler, schedule: Schedule, eta: Probability = 1.0) -> Sampler:
  """Makes a solver of the ODE stochastic: each step goes too far, then back.

  It takes the step to the level between s and clean data that leaves the share
  of sigma_s^2 that is new noise in `ddim(eta)`, and q(x_s | x) brings x back to
  level s. With `ddim()` it is `ddim(eta)`; k-diffusion's `_ancestral` samplers
  are of this kind. Before the schedule's cleanest level, if that is noisy, the
  level is cleaner than any of the schedule, with its time.

  Args:
    sampler: A sampler without a memory of earlier x.
    schedule: Gives the cleaner level.
    eta: 0 for the sampler itself; ValueError outside [0, 1].
  """
  if eta == 0.0:
    return sampler

  def step(key, x, state, denoise, *, level_s, level_t):
    noise_key, key = split_key(key, 2)
    noisy = level_s.sigma > 0.0
    logsnr = jnp.where(noisy, level_s.logsnr, 0.0)
    old_share = 1.0 - eta**2 + eta**2 * snr_ratio(level_s, level_t)
    tiny = jnp.finfo(x.dtype).eps ** 2  # It is 0 for eta = 1 from alpha = 0.
    logsnr -= jnp.log(jnp.maximum(old_share, tiny))
    down = schedule.from_logsnr(logsnr)
    # The level has this log-SNR also beyond the schedule's cleanest level.
    down = down._replace(sigma=down.alpha * jnp.exp(-0.5 * logsnr))
    down = select_level(noisy, down, level_s)
    x, state = sampler.step(key, x, state, denoise, level_s=down, level_t=level_t)
    z = draw_normal(noise_key, x)
    # Levels without a step between them are replaced: theirs would be NaN.
    down, up = (select_level(noisy, level, level_t) for level in (down, level_s))
    return jnp.where(expand_to(noisy, x), forward_step(x, z, down, up), x), state

  return Sampler(sampler.init, step)


@checked
def churn_gamma(s_churn: NonNegative, num_steps: Size) -> float:
  """Computes min(S_churn / N, sqrt(2) - 1) (Karras et al. 2022, Alg. 2)."""
  return min(s_churn / num_steps, 2.0**0.5 - 1.0)


class Churn(NamedTuple):
  """Adds EDM's noise before each step (Karras et al. 2022, Alg. 2).

  s_churn: the noise of all steps together. See `churn`.
  """

  s_churn: NonNegative
  s_min: NonNegative = 0.0
  s_max: NoiseRatio = float('inf')
  s_noise: NonNegative = 1.0

  def around(self, sampler: Sampler, schedule: Schedule, num_steps: int) -> Sampler:
    """Returns the sampler with noise before each step."""
    gamma = churn_gamma(self.s_churn, num_steps)
    return churn(sampler, schedule, gamma, self.s_min, self.s_max, self.s_noise)


class AncestralNoise(NamedTuple):
  """Makes a solver of the ODE stochastic (`with_ancestral_noise`).

  eta: as in DDIM; 0: no noise.
  """

  eta: Probability = 1.0

  def around(self, sampler: Sampler, schedule: Schedule) -> Sampler:
    """Returns the sampler with noise after each step."""
    return with_ancestral_noise(sampler, schedule, self.eta)


class Langevin(NamedTuple):
  """Takes steps of Langevin's corrector before each step."""

  snr: Positive = 0.16
  steps: Size = 1

  def around(self, sampler: Sampler) -> Sampler:
    """Returns the sampler with the corrector before each step."""
    return with_corrector(sampler, langevin(self.snr), self.steps)


def _square_norm(x):
  # Returns one number per example, [B, 1, ...].
  return sum_data_axes(x**2, keepdims=True)

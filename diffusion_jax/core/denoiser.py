"""The interface between networks and the process.

Samplers, bounds and guidance take a `Denoiser`: (x_t, level) -> Prediction. A
network is any function `network_fn(params, x, noise, cond, *, key=None)`; a
`Network` makes a denoiser of it.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.broadcasting import expand_to
from diffusion_jax.core.concrete import kind_of
from diffusion_jax.core.levels import NoiseLevel, Schedule, round_near_step
from diffusion_jax.ranges import Positive

Array = jax.Array


class NetworkFn(Protocol):
  """A network as a function of its parameters."""

  def __call__(
    self,
    params: Params,
    x: Array,
    noise: Array,
    cond: dict | None,
    /,
    *,
    key: Array | None = None,
  ) -> Array:
    """Returns the raw output, [B, ...].

    x: [B, ...]; noise: [B], from a `NoiseInput`; cond: dict of arrays
    [B, ...]; key: the key of dropout, which is off without one.
    """
    ...


class NoiseInput(Protocol):
  """The function of the noise level that a network takes as its input."""

  def __call__(self, level: NoiseLevel, /) -> Array:
    """Returns one number for each level, [] or [B]."""
    ...


class Prediction(NamedTuple):
  """A denoiser's estimate of the clean image.

  x0 [B, ...] estimates E[x_0 | x_t]. var_frac [B, ...] is the exponent v of
  IDDPM Eq. 15 if the network learns the reverse variance.
  """

  x0: Array
  var_frac: Array | None = None


class Denoiser(Protocol):
  """An estimate of the clean image, such as `Network.denoiser` returns."""

  def __call__(self, xt: Array, level: NoiseLevel, /) -> Prediction:
    """Estimates x_0 from x_t [B, ...] at a level [] or [B]."""
    ...


def predict(denoise: Denoiser, xt: Array, level: NoiseLevel) -> Prediction:
  """Returns denoise(xt, level); TypeError if it is not a `Prediction`.

  Without the check an array would be unpacked along its batch axis.
  """
  prediction = denoise(xt, level)
  if not isinstance(prediction, Prediction):
    raise TypeError(
      f'a denoiser returns dj.Prediction(x0), not {kind_of(prediction)}'
    )
  return prediction


def logsnr_input(level: NoiseLevel) -> Array:
  """Returns log(alpha^2 / sigma^2), the level's logsnr, [] or [B]."""
  return level.logsnr


def edm_input(level: NoiseLevel) -> Array:
  """Returns log(sigma / alpha) / 4, EDM's c_noise (Table 1), [] or [B]."""
  return -level.logsnr / 8.0


def log_sigma_input(level: NoiseLevel) -> Array:
  """Returns log(sigma / alpha), Song et al.'s VE label, [] or [B]."""
  return -0.5 * level.logsnr


def time_input(scale: Positive = 1000.0) -> NoiseInput:
  """Makes the input scale * t, finite also where alpha = 0 or sigma = 0.

  scale=999 is the label of Song et al.'s continuous VP networks.
  """
  return lambda level: scale * level.t


def step_input(schedule_steps: int, scale: float = 1.0) -> NoiseInput:
  """Makes the input max(T t - 1, 0) * scale, 0..T-1 at DDPM's steps 1..T.

  T is schedule_steps. At the steps it is exactly an integer, as in the
  published networks.
  """

  def noise(level):
    step = round_near_step(level.t * schedule_steps, schedule_steps)
    return scale * jnp.maximum(step - 1.0, 0.0)

  return noise


def rescaled_step_input(schedule_steps: int) -> NoiseInput:
  """Makes `step_input` rescaled to 0..999, improved-diffusion's option."""
  return step_input(schedule_steps, 1000 / schedule_steps)


def variance_fraction(output: Array) -> Array:
  """Maps a network's output for the variance, about -1..1, to var_frac 0..1."""
  return 0.5 * (output + 1.0)


def at_training_levels(denoise: Denoiser, schedule: Schedule) -> Denoiser:
  """Makes a denoiser trained on `schedule` usable at all levels.

  It evaluates `denoise` at the level of `schedule` with the same SNR and at x_t
  rescaled to that level, which does not change E[x_0 | x_t]. Beyond an end of
  `schedule`, clean data and pure noise included, it uses the last level and
  scales x_t by the ratio of the alphas where alpha > sigma, else by the ratio
  of the sigmas. Networks of T steps get fractional steps.
  """

  def denoise_at_equal_snr(xt, level):
    level = jax.tree.map(jnp.asarray, level)
    no_signal, no_noise = level.alpha == 0.0, level.sigma == 0.0
    # 1 replaces 0, so that no branch computes 0 / 0: its gradient would be NaN
    # even where the branch is not taken.
    safe = level._replace(
      alpha=jnp.where(no_signal, 1.0, level.alpha),
      sigma=jnp.where(no_noise, 1.0, level.sigma),
    )
    logsnr = jnp.where(no_signal, schedule(1.0).logsnr, safe.logsnr)
    logsnr = jnp.where(no_noise, schedule(0.0).logsnr, logsnr)
    trained = schedule.from_logsnr(logsnr)
    new, old = trained.expand_to(xt), safe.expand_to(xt)
    mostly_signal = expand_to(level.alpha > level.sigma, xt)
    scale = jnp.where(
      mostly_signal, new.alpha / old.alpha, new.sigma / old.sigma
    )
    return denoise(scale * xt, trained)

  return denoise_at_equal_snr

"""Guidance: functions denoiser -> denoiser.

x_0, eps, v and the score are affine functions of one another at fixed x_t, so
guiding x_0 guides all of them. Clip or threshold after guidance.
guided-diffusion clips before its classifier guidance:
`classifier_guided(clip_denoised(denoise), ...)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import (
  as_float,
  check_interval,
  data_axes,
  expand_to,
)
from diffusion_jax.core.checked import checked, needed
from diffusion_jax.core.denoiser import Denoiser, Network, Prediction, predict
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.parametrization import Parametrization, output_row
from diffusion_jax.declared import declares
from diffusion_jax.meshes import on_auto_axes, placed_as
from diffusion_jax.ranges import Finite, NoiseRatio, NonNegative, Probability, Size

Array = jax.Array


@needed('a pair of denoisers, such as paired(cond, uncond)')
class PairedDenoiser(Protocol):
  """A conditional and an unconditional denoiser, for `classifier_free`.

  A function will do. `paired` and `make_paired_denoiser` also say what the
  network predicts, as the attribute `output`.
  """

  def __call__(self, xt: Array, level: NoiseLevel, /) -> tuple[Prediction, Prediction]:
    """Returns the conditional and the unconditional prediction."""
    ...


class LogProbFn(Protocol):
  """A classifier of noisy images: log p(y | x_t) for given classes y."""

  def __call__(self, xt: Array, level: NoiseLevel, /) -> Array:
    """Returns log p(y | x_t) in nats, [B]; xt: [B, ...], level: [] or [B]."""
    ...


class ScoreFn(Protocol):
  """The gradient of a log-probability with respect to x_t."""

  def __call__(self, xt: Array, level: NoiseLevel, /) -> Array:
    """Returns the gradient, [B, ...]; xt: [B, ...], level: [] or [B]."""
    ...


@dataclasses.dataclass(frozen=True)
class _Pair:
  denoise: Callable[..., tuple[Prediction, Prediction]]
  output: Parametrization

  def __call__(self, xt, level):
    return self.denoise(xt, level)


@checked
def paired(
  cond: Denoiser,
  uncond: Denoiser,
  output: Parametrization = Parametrization('x0'),  # noqa: B008
) -> PairedDenoiser:
  """Pairs two denoisers for `classifier_free`.

  With a worse version of `cond` as `uncond` (a smaller network, or one trained
  for fewer steps) this is autoguidance (Karras et al. 2024). output: what
  `rescale` takes for the network's output.
  """

  def denoise_pair(xt, level):
    return predict(cond, xt, level), predict(uncond, xt, level)

  return _Pair(denoise_pair, output)


@checked
def make_paired_denoiser(network: Network, params: Params, cond: dict) -> PairedDenoiser:
  """Pairs a network with and without its condition, in a single call.

  The network is evaluated on 2B examples: each is repeated, with cond['drop']
  False for the first copy and True for the second. cond: dict of arrays
  [B, ...].
  """

  def denoise_pair(xt, level):
    size = len(xt)
    # The two copies of an example are neighbours, so they stay on the device of
    # the example if the batch is split over devices.
    twice = {k: _twice(v) for k, v in cond.items()}
    twice['drop'] = placed_as(xt, jnp.tile(jnp.array([False, True]), size))
    if jnp.ndim(level.t):
      level = jax.tree.map(lambda a: _twice(jnp.broadcast_to(a, (size, *a.shape[1:]))), level)
    both = network.denoiser(params, twice)(_twice(xt), level)

    def copy(i):
      return jax.tree.map(lambda a: a.reshape(size, 2, *a.shape[1:])[:, i], both)

    return copy(0), copy(1)

  return _Pair(denoise_pair, Parametrization(network.parametrization, network.sigma_data))


@on_auto_axes
def _twice(x):
  # Returns each row of [B, ...] and a copy after it, [2 B, ...].
  return jnp.repeat(x, 2, axis=0)


@declares(what='uncond + w (cond − uncond) (Ho & Salimans 2022, Eq. 6)')
@checked
def classifier_free(
  pair: PairedDenoiser,
  scale: Array | Finite,
  rescale: Probability = 0.0,
  interval: tuple[NonNegative, NoiseRatio] = (0.0, float('inf')),
  channels: Size | None = None,
) -> Denoiser:
  """Guides by x_0 = uncond + scale (cond - uncond) (Ho & Salimans 2022, Eq. 6).

  The result keeps the conditional var_frac.

  Args:
    pair: See `paired` and `make_paired_denoiser`; TypeError for a denoiser.
    scale: [] or [B]; 1 + w in their notation: 1 is the conditional model, 0 the
      unconditional one.
    rescale: phi of Lin et al. 2023, section 3.4: 1 gives the network's output
      the standard deviation of the conditional output, 0 keeps it. A flat
      output stays as it is. Without pair.output x_0 is rescaled.
    interval: The range of sigma / alpha with guidance; elsewhere x_0 is the
      conditional one (Kynkaanniemi et al. 2024). ValueError if it is empty.
    channels: The number of channels, from the first, that are guided (3 of 4 in
      DiT's code); None is all.
  """
  low, high = interval
  check_interval('no level would be guided', low=low, high=high)
  kind, sigma_data = getattr(pair, 'output', ('x0', 0.5))

  def denoise(xt, level):
    cond, uncond = predict_pair(pair, xt, level)
    x0 = uncond.x0 + expand_to(scale, xt) * (cond.x0 - uncond.x0)
    if rescale:
      p, q = output_row(kind, level.expand_to(xt), sigma_data)
      y = p * xt + q * x0
      std, size = _std(y), jnp.max(jnp.abs(y), data_axes(y), keepdims=True)
      flat = std <= 1e-6 * size  # all values are equal up to rounding
      ratio = _std(p * xt + q * cond.x0) / jnp.where(flat, 1.0, std)
      ratio = jnp.where(flat, 1.0, ratio)
      x0 = moved(x0, rescale * (ratio - 1.0) * y, q)
    ratio = sigma_over_alpha(level.expand_to(xt))
    inside = (low <= ratio) & (ratio <= high)
    if channels is not None:
      first = jnp.arange(xt.shape[-1]) < channels
      inside &= first.reshape(*[1] * (xt.ndim - 1), -1)
    return cond._replace(x0=jnp.where(inside, x0, cond.x0))

  return denoise


def predict_pair(
  pair: PairedDenoiser, xt: Array, level: NoiseLevel
) -> tuple[Prediction, Prediction]:
  """Returns the predictions of a pair; TypeError for another function.

  Without the check a single Prediction would be unpacked into its two fields.
  """
  both = pair(xt, level)
  if isinstance(both, Prediction) or not (
    isinstance(both, tuple) and [type(p) for p in both] == [Prediction] * 2
  ):
    raise TypeError(
      'guidance needs a pair: paired(cond, uncond) of two denoisers, or '
      'make_paired_denoiser(...), not a function that returns '
      f'{type(both).__name__}'
    )
  cond, uncond = (p._replace(x0=as_float(p.x0)) for p in both)
  return cond, uncond


@checked
def log_prob_gradient(log_prob_fn: LogProbFn, scale: Array | Finite = 1.0) -> ScoreFn:
  """Makes the function (x_t, level) -> scale grad_x log p(y | x_t), [B, ...].

  It is for `classifier_guided` and `ancestral(mean_shift=...)`. log_prob_fn:
  (x_t, level) -> log p(y | x_t) of a classifier, [B]; scale: [] or [B].
  """

  def gradient(xt, level):
    slope = jax.grad(lambda x: jnp.sum(log_prob_fn(x, level)))(xt)
    return expand_to(scale, xt) * slope

  return gradient


@checked
def classifier_guided(
  denoise: Denoiser, log_prob_fn: LogProbFn, scale: Array | Finite = 1.0
) -> Denoiser:
  """Guides by eps - sigma scale grad log p(y | x_t) (ADM, Alg. 2).

  It adds scale sigma^2 / alpha grad to x_0, and nothing at alpha = 0, where x_t
  is independent of y. This form is for the ODE and DDIM; Alg. 1, which shifts
  the mean of an ancestral step, is
  `ancestral(mean_shift=log_prob_gradient(...))`. For log_prob_fn and scale see
  `log_prob_gradient`.
  """
  gradient = log_prob_gradient(log_prob_fn, scale)

  def guided(xt, level):
    prediction = predict(denoise, xt, level)
    shift = shift_of_x0(gradient(xt, level), level)
    return prediction._replace(x0=prediction.x0 + shift)

  return guided


def shift_of_x0(gradient: Array, level: NoiseLevel) -> Array:
  """Computes (sigma^2 / alpha) grad log p(y | x_t), [B, ...], Tweedie's shift.

  It is 0 at alpha = 0, where x_t is independent of y, and at sigma = 0.
  """
  level = level.expand_to(gradient)
  at_end = (level.alpha == 0.0) | (level.sigma == 0.0)
  factor = level.sigma * jnp.where(at_end, 0.0, sigma_over_alpha(level))
  return jnp.where(at_end, 0.0, factor * gradient)


def sigma_over_alpha(level: NoiseLevel) -> Array:
  """Computes sigma / alpha, inf at alpha = 0."""
  safe = jnp.where(level.alpha == 0.0, 1.0, level.alpha)
  return jnp.where(level.alpha == 0.0, jnp.inf, level.sigma / safe)


def moved(x0: Array, change: Array, q: Array) -> Array:
  """Returns x_0 after a change of p x_t + q x_0 (`output_row`); x_0 at q = 0."""
  known = q != 0.0
  return x0 + jnp.where(known, change / jnp.where(known, q, 1.0), 0.0)


def _std(x):
  # Returns one number per example, [B, 1, ...].
  return safe_root(jnp.var(x, axis=data_axes(x), keepdims=True))


def safe_root(square: Array) -> Array:
  """Returns the square root, 1e-15 for 0, where its gradient would be NaN."""
  return jnp.sqrt(square + 1e-30)

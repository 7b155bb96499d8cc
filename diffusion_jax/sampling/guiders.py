"""Other uses of a conditional and an unconditional prediction than their sum."""

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to, sum_data_axes
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.parametrization import output_row
from diffusion_jax.core.process import sigma_ratio
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Finite, NoiseRatio, Positive, Rate
from diffusion_jax.sampling.guidance import (
  PairedDenoiser,
  moved,
  predict_pair,
  safe_root,
  sigma_over_alpha,
)
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@declares(
  what='cond + (w − 1)(d⊥ + η d∥), d = cond − uncond split along cond (APG, Sadat et al. 2024)'
)
@checked
def adaptive_projected(
  pair: PairedDenoiser,
  scale: Array | Finite,
  parallel: Finite = 0.0,
  max_norm: Positive | None = None,
) -> Denoiser:
  """Guides by the part of cond - uncond that is orthogonal to cond (APG).

  Sadat et al. 2024, Alg. 1, without its momentum: x_0 = cond + (scale - 1)
  (orthogonal + parallel * (the rest)). pair: as in `classifier_free`.

  Args:
    scale: [] or [B].
    parallel: eta, the share of the part along cond; 1 and no max_norm is
      `classifier_free`.
    max_norm: r, to which longer differences cond - uncond are scaled, example
      by example; None: any. ValueError unless it is above 0.
  """

  def denoise(xt, level):
    cond, uncond = predict_pair(pair, xt, level)
    change = cond.x0 - uncond.x0
    if max_norm is not None:
      norm = safe_root(_dot(change, change))
      change *= max_norm / jnp.maximum(norm, max_norm)
    along = _share(change, cond.x0) * cond.x0
    change += (parallel - 1.0) * along
    return cond._replace(x0=cond.x0 + (expand_to(scale, xt) - 1.0) * change)

  return denoise


@declares(
  what='s uncond + w (cond − s uncond), s = ⟨cond, uncond⟩ / |uncond|² (CFG-Zero\\*, Fan et al. '
  '2025)'
)
@checked
def cfg_zero_star(
  pair: PairedDenoiser, scale: Array | Finite, zero_above: NoiseRatio = float('inf')
) -> Denoiser:
  """Guides with an optimized scale of the unconditional output (CFG-Zero*).

  Fan et al. 2025: y = s uncond + scale (cond - s uncond) of the network's
  outputs, such as velocities, with s = <cond, uncond> / |uncond|^2, example by
  example. pair: as in `classifier_free`; without pair.output x_0 is the output.

  Args:
    scale: [] or [B].
    zero_above: The sigma / alpha above which the output is 0 ("zero-init"). 100
      makes the first step of a rectified flow idle.
  """
  kind, sigma_data = getattr(pair, 'output', ('x0', 0.5))

  def denoise(xt, level):
    cond, uncond = predict_pair(pair, xt, level)
    at, w = level.expand_to(xt), expand_to(scale, xt)
    p, q = output_row(kind, at, sigma_data)
    x0 = uncond.x0 + w * (cond.x0 - uncond.x0)
    y_cond, y_uncond, y = (p * xt + q * x for x in (cond.x0, uncond.x0, x0))
    change = (1.0 - w) * (_share(y_cond, y_uncond) - 1.0) * y_uncond
    change = jnp.where(sigma_over_alpha(at) > zero_above, -y, change)
    return cond._replace(x0=moved(x0, change, q))

  return denoise


@declares(
  what='DDIM with the guided x_0 and the ε of uncond (CFG++, Chung et al. 2024)', takes_pairs=True
)
@checked
def cfg_plus_plus(scale: Array | Rate) -> Sampler:
  """Makes DDIM with the guided x_0 and the unconditional eps (CFG++).

  Chung et al. 2024, Alg. 2. It calls a `PairedDenoiser` in place of a denoiser.
  It is `ddim` with the scale lambda / (1 - sqrt(SNR_t / SNR_s)) of
  `classifier_free`, which depends on the step. scale: lambda, [] or [B], from 0
  to 1.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    cond, uncond = predict_pair(denoise, x, level_t)
    x0 = uncond.x0 + expand_to(scale, x) * (cond.x0 - uncond.x0)
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    return s.alpha * x0 + sigma_ratio(s, t) * (x - t.alpha * uncond.x0), state

  return Sampler(lambda x: (), step)


def _dot(a, b):
  # Returns one number per example, [B, 1, ...].
  return sum_data_axes(a * b, keepdims=True)


def _share(a, b):
  # Returns <a, b> / |b|^2; 0 for b = 0.
  square = _dot(b, b)
  some = square > 0.0
  return jnp.where(some, _dot(a, b) / jnp.where(some, square, 1.0), 0.0)

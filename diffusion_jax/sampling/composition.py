"""Many observations from a network of single ones: denoisers -> denoiser.

For y_1, ..., y_n that are independent given x_0, such as observations given the
parameters of a simulator,

  p(x_0 | x_t, y_1..n)  ~  p(x_0 | x_t)^(1 - n) prod_i p(x_0 | x_t, y_i).

A network of p(x_0 | y) knows the mean of each factor. `gauss_composed`
multiplies Gaussians with these means (Linhart et al. 2024): what remains is an
error where a factor is not Gaussian. `bridged` adds scores, which is exact only
at t = 0 and thus needs Langevin steps (Geffner et al. 2023).

`denoiser_of` is a function y -> denoiser of p(x_0 | y), and observations are
[n, ...]; it is mapped over them by `jax.vmap`, so that one call of the result
evaluates a network on n B examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.checked import Numbers, checked
from diffusion_jax.core.denoiser import Denoiser, Prediction, predict
from diffusion_jax.core.products import einsum

Array = jax.Array
DenoiserOf = Callable[[Array], Denoiser]


@checked
def gauss_composed(
  denoiser_of: DenoiserOf,
  observations: Array,
  prior: Denoiser,
  covariances: Numbers,
  prior_covariance: Numbers,
) -> Denoiser:
  """Composes n denoisers by fixed covariances (GAUSS, Linhart et al. 2024).

  Cov[x_0 | x_t, y_i] is (C_i^-1 + alpha^2 / sigma^2)^-1, as if p(x_0 | y_i)
  were Gaussian; exact if it is. Any sampler may follow. An observation that
  would make a direction less certain than the prior counts as knowing nothing
  of it. ValueError for other shapes.

  Args:
    prior: The denoiser without an observation.
    covariances: Of x_0 given each y_i, flat, [n, D, D], by draws (`np.cov`).
    prior_covariance: Of x_0, [D, D].
  """
  covariances = np.asarray(covariances, np.float64)
  prior_covariance = np.asarray(prior_covariance, np.float64)
  n, d = len(observations), len(prior_covariance)
  if covariances.shape != (n, d, d) or prior_covariance.shape != (d, d):
    raise ValueError(
      f'covariances {list(covariances.shape)} of {n} observations and the '
      f'prior_covariance {list(prior_covariance.shape)} must be [n, D, D] and '
      '[D, D]'
    )
  first, gains, values, axes = _precisions(covariances, prior_covariance)

  def denoise(xt, level):
    # Precisions are in units of 1 / sigma^2, finite at clean levels too.
    x0 = predict(prior, xt, level).x0
    apart = _each(denoiser_of, observations, xt, level) - x0[None]
    apart = apart.reshape(n, len(xt), d)
    total = jnp.sum(apart, axis=0)
    at = level.expand_to(total)
    pull = einsum('ij,bj->bi', first, total)
    pull += einsum('nij,nbj->bi', gains, apart)
    pull = at.sigma**2 * pull + at.alpha**2 * total
    share = at.sigma**2 * values[None] + at.alpha**2
    moved = einsum('ij,bi->bj', axes, pull) / share
    moved = einsum('ij,bj->bi', axes, moved)
    return Prediction(x0 + moved.reshape(x0.shape))

  return denoise


def _precisions(covariances, prior_covariance):
  # Returns the prior's precision, what each observation adds to it, never less
  # than 0, and eigenvalues and eigenvectors of their sum.
  first = np.linalg.inv(prior_covariance)
  values, vectors = np.linalg.eigh(np.linalg.inv(covariances) - first)
  gains = (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.swapaxes(1, 2)
  arrays = first, gains, *np.linalg.eigh(first + gains.sum(axis=0))
  return (jnp.asarray(a, jnp.float32) for a in arrays)


@checked
def bridged(
  denoiser_of: DenoiserOf, observations: Array, prior_score: Callable[[Array], Array]
) -> Denoiser:
  """Adds scores of n observations (F-NPSE, Geffner et al. 2023).

  The score is sum_i score_i(x_t) + (1 - n) (1 - t) grad log p(x_t), with the
  density of x_0 at x_t and t = `level.t`. No diffusion process has it: begin
  with N(0, sigma^2 / n) and take `annealed_langevin` with a step_size below 1 /
  n. The schedule must preserve the variance, of 1 in x_0: at a large sigma the
  score of the prior would win. prior_score: x [B, ...] -> [B, ...].
  """

  def denoise(xt, level):
    singles = _each(denoiser_of, observations, xt, level)
    at, n = level.expand_to(xt), len(observations)
    prior = (1 - n) * (1.0 - at.t) * prior_score(xt)
    scores = jnp.sum(at.alpha[None] * singles - xt[None], axis=0)
    return Prediction((xt + scores + at.sigma**2 * prior) / at.alpha)

  return denoise


def _each(denoiser_of, observations, xt, level):
  # Returns E[x_0 | x_t, y_i], [n, B, ...].
  return jax.vmap(lambda y: predict(denoiser_of(y), xt, level).x0)(observations)

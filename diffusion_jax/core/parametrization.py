"""Conversions between what networks predict: one table, one linear solve.

Every target in use is y = a x_0 + b eps with (a, b) a function of the level.
Together with x_t = alpha x_0 + sigma eps that is a 2x2 linear system, so one
solve converts any prediction into x_0 and from there into any other.

  kind    a                  b
  x0      1                  0
  eps     0                  1                      DDPM
  v       -sigma             alpha                  Salimans & Ho 2022
  score   0                  -1 / sigma             Song et al. 2021
  flow    -1                 1                      rectified flow, dx/dt
  edm     sigma / (s_d n)    -s_d alpha / n         Karras et al. 2022, Eq. 7

with n = sqrt(sigma^2 + s_d^2 alpha^2) and s_d the data's standard deviation;
the edm row is their c_skip and c_out.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import check_numbers, check_same_shape
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.ranges import Positive

Array = jax.Array

Kind = Literal['x0', 'eps', 'v', 'score', 'flow', 'edm']
KINDS: tuple[Kind, ...] = get_args(Kind)


class Parametrization(NamedTuple):
  """Says what a network predicts.

  sigma_data: the deviation of the data, for EDM's preconditioning (Karras et
  al. 2022).
  """

  kind: Kind
  sigma_data: Positive = 0.5


def _row(kind: Kind, level: NoiseLevel, sigma_data: float) -> tuple[Array, Array]:
  alpha, sigma = level.alpha, level.sigma
  zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
  if kind == 'x0':
    return one, zero
  if kind == 'eps':
    return zero, one
  if kind == 'v':
    return -sigma, alpha
  if kind == 'score':
    return zero, -1.0 / sigma
  if kind == 'flow':
    return -one, one
  norm = edm_norm(level, sigma_data)
  return sigma / (sigma_data * norm), -sigma_data * alpha / norm


def edm_norm(level: NoiseLevel, sigma_data: float = 0.5) -> Array:
  """Returns the standard deviation of x_t, EDM's 1 / c_in (Table 1)."""
  return jnp.sqrt(level.sigma**2 + (sigma_data * level.alpha) ** 2)


@checked
def target(
  kind: Kind, x0: Array, eps: Array, level: NoiseLevel, sigma_data: Positive = 0.5
) -> Array:
  """Computes a x_0 + b eps, [B, ...], the training target of a network.

  kind: 'x0', 'eps', 'v', 'score', 'flow' or 'edm', ValueError for others; x0,
  eps: [B, ...]; level: [] or [B]; sigma_data: the standard deviation of the
  data, for 'edm'.
  """
  check_same_shape(x0=x0, eps=eps)
  a, b = _row(kind, NoiseLevel.expand_to(level, x0), sigma_data)
  return a * x0 + b * eps


def output_row(kind: Kind, level: NoiseLevel, sigma_data: float = 0.5) -> tuple[Array, Array]:
  """Returns (p, q): p x_t + q x_0 is the target times a function of the level.

  It is the target itself for x0, and else sigma times it (score: -sigma^2), so
  that p and q are finite at sigma = 0. They have the shape of the level.
  """
  if kind == 'x0':
    return jnp.zeros_like(level.alpha), jnp.ones_like(level.alpha)
  a, b = _row('eps' if kind == 'score' else kind, level, sigma_data)
  return b, a * level.sigma - b * level.alpha


@checked
def to_x0(
  kind: Kind, output: Array, xt: Array, level: NoiseLevel, sigma_data: Positive = 0.5
) -> Array:
  """Computes x_0 = (b x_t - sigma y) / (b alpha - a sigma), [B, ...].

  For eps this is DDPM Eq. 15. For eps and score alpha must be > 0, or ValueError, NaN
  under `jit`. Where sigma = 0 it is x_t / alpha, or the output x0. output: y, [B, ...];
  xt: [B, ...]; for the others see `target`.
  """
  check_same_shape(output=output, xt=xt)
  given, level = level, NoiseLevel.expand_to(level, xt)
  if kind in ('eps', 'score'):
    rule = f'without signal {kind} does not determine x_0: predict v or x0'
    check_numbers(lambda alpha: alpha > 0.0, rule, alpha=given.alpha)
  if kind == 'x0':
    return output
  if kind == 'score':  # Its row is infinite at sigma = 0.
    return (xt + level.sigma**2 * output) / level.alpha
  a, b = _row(kind, level, sigma_data)
  determinant = b * level.alpha - a * level.sigma
  return (b * xt - level.sigma * output) / determinant


@checked
def eps_from_x0(x0: Array, xt: Array, level: NoiseLevel) -> Array:
  """Computes eps = (x_t - alpha x_0) / sigma, [B, ...]; 0 where clean, as data have none."""
  check_same_shape(x0=x0, xt=xt)
  level = NoiseLevel.expand_to(level, xt)
  noisy = level.sigma > 0.0
  return jnp.where(noisy, xt - level.alpha * x0, 0.0) / jnp.where(noisy, level.sigma, 1.0)


@checked
def score_from_x0(x0: Array, xt: Array, level: NoiseLevel) -> Array:
  """Computes grad log q(x_t) = -eps / sigma, [B, ...], x0 = E[x_0 | x_t]; 0 where clean."""
  sigma = level.expand_to(xt).sigma
  return -eps_from_x0(x0, xt, level) / jnp.where(sigma > 0.0, sigma, 1.0)


@checked
def error_scale(kind: Kind, level: NoiseLevel, sigma_data: Positive = 0.5) -> Array:
  """Computes a - b alpha / sigma: (error in y) / (error in x_0) at fixed x_t.

  It has the shape of the level. Its square converts a loss in x_0 to a loss in
  y.
  """
  a, b = _row(kind, level, sigma_data)
  return a - b * level.alpha / level.sigma if kind != 'x0' else a

"""Noise that belongs to the levels of a step, not to its number in the grid.

Let W be a Brownian motion in the signal-to-noise ratio. The reverse SDE is
driven by it: y = alpha x / sigma^2 has dy = E[x_0 | y] dSNR + dW. Here W is a
function of the key, so the same key with more steps follows the same path, and
the samples converge. It is computed as X = e^-lambda W, lambda = log SNR / 2,
which is stationary with the covariance e^-|difference of lambda|, by halving
an interval of lambda (a Brownian tree: Li et al. 2020, section 4).
"""

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import clone_key, draw_normal, fold_each, key_per_example
from diffusion_jax.core.levels import NoiseLevel, check_one_level, check_order
from diffusion_jax.meshes import on_auto_axes, placed_as

Array = jax.Array

LARGEST = 32.0  # Levels beyond lambda = +-32 count as +-32.
DEPTH = 18


@checked
def path_noise(key: Key, x: Array, level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes (W_s - W_t) / sqrt(SNR_s - SNR_t), standard normal, [B, ...].

  For one key the results of adjacent steps are independent, and a long step's
  result follows from the results of its parts. Steps h in lambda below 2.4e-4
  (64 / 2^18) share random numbers: a variance may be as small as h / 2.4e-4,
  0.04 for h = 1e-5. key: [] or [B]; levels: [] or [B], s cleaner than t.
  """
  check_order(level_s, level_t)
  check_one_level(level_s, 'path_noise')
  # One key makes the whole path, so each of its uses is a clone.
  keys = key_per_example(clone_key(key), len(x))
  high, low = _position(level_s, x), _position(level_t, x)
  h = expand_to(high - low, x)
  x_high, x_low = _path_at_both(x, keys, high, low)
  change = x_high - jnp.exp(-h) * x_low
  return change / jnp.sqrt(jnp.maximum(-jnp.expm1(-2.0 * h), jnp.finfo(x.dtype).tiny))


def _position(level, x):
  # Returns lambda, [B].
  position = jnp.clip(0.5 * level.logsnr, -LARGEST, LARGEST).astype(x.dtype)
  return jnp.broadcast_to(position, len(x))


@on_auto_axes
def _path_at_both(x, keys, high, low):
  pairs = (x, x), (keys, clone_key(keys)), (high, low)
  both = _path(*map(jnp.concatenate, pairs))
  return tuple(jnp.split(both, 2))


def _path(x, keys, position):
  # X at a position, [B, ...]. Node i of the tree has the children 2 i and 2 i + 1.
  def draw(index):
    return draw_normal(fold_each(keys, index), x)

  def halve(depth, carry):
    node, left, x_left, x_right = carry
    half = LARGEST * 0.5**depth
    middle = (x_left + x_right) / (2.0 * jnp.cosh(half))
    middle += jnp.sqrt(jnp.tanh(half)) * draw(node)
    right = position >= left + half
    there = expand_to(right, x)
    return (
      2 * node + right,
      left + half * right,
      jnp.where(there, middle, x_left),
      jnp.where(there, x_right, middle),
    )

  node = placed_as(x, jnp.zeros(len(x), jnp.int32))
  position = placed_as(x, position)
  ends = draw(node), draw(node + 2 ** (DEPTH + 1))
  carry = node + 1, jnp.full_like(position, -LARGEST), *ends
  node, left, x_left, x_right = jax.lax.fori_loop(0, DEPTH, halve, carry)
  width = 2.0 * LARGEST * 0.5**DEPTH
  p = expand_to(position - left, x)
  q = width - p
  mean = jnp.sinh(q) * x_left + jnp.sinh(p) * x_right
  variance = jnp.expm1(-2.0 * p) * jnp.expm1(-2.0 * q)
  variance /= -jnp.expm1(-2.0 * width)
  return mean / jnp.sinh(width) + jnp.sqrt(variance) * draw(node)

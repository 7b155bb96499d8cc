"""Circles, spheres and rotations: geodesics, uniform draws, and the law of a point on the way.

A geodesic from x_0 to a uniform x_1, x_t = exp_{x_0}(sigma log_{x_0} x_1), is noise for flow
matching (Chen & Lipman 2023). At an angle phi from x_0 the density of x_t has a closed form.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.checked import checked, needed
from diffusion_jax.core.keys import draw_normal, draw_uniform
from diffusion_jax.ranges import Positive

Array = jax.Array


@needed('a manifold, such as joint.sphere()')
class Manifold(NamedTuple):
  """A space of directions, as functions of points x, y [B, ...] and tangent vectors v.

  uniform(key, shape) -> points. exp(x, v) -> the end of the geodesic from x along v. log(x, y)
  -> the v of least length to y. dist(x, y) -> that length. velocity(x, v, s) -> of the
  geodesic s -> exp(x, s v) at s. tangent(x, output) -> the tangent vector of a network's
  output. seen(x) -> what a network sees, without a jump. log_density(x, y, sigma) -> log
  q(x_t = y | x_0 = x) of each point, by the uniform law; -inf beyond sigma times its largest
  distance.
  """

  uniform: Callable[[Array, tuple[int, ...]], Array]
  exp: Callable[[Array, Array], Array]
  log: Callable[[Array, Array], Array]
  dist: Callable[[Array, Array], Array]
  velocity: Callable[[Array, Array, Array], Array]
  tangent: Callable[[Array, Array], Array]
  seen: Callable[[Array], Array]
  log_density: Callable[[Array, Array, Array], Array]


@checked
def circle(period: Positive = 2.0 * math.pi) -> Manifold:
  """Makes the circle of angles with a period; each number [B, ...] is one, together a torus.

  Angles are in [-period / 2, period / 2). A network sees cosine and sine, [..., 2], and
  returns a number for each angle.
  """
  half = 0.5 * period

  def wrapped(x):
    return jnp.mod(x + half, period) - half

  def uniform(key, shape):
    return wrapped(period * draw_uniform(key, jnp.zeros(shape)))

  def dist(x, y):
    return jnp.abs(wrapped(y - x))

  def seen(x):
    turns = (2.0 * math.pi / period) * x
    return jnp.stack([jnp.cos(turns), jnp.sin(turns)], axis=-1)

  def log_density(x, y, sigma):
    return jnp.where(dist(x, y) < half * sigma, -jnp.log(sigma), -jnp.inf)

  return Manifold(
    uniform,
    exp=lambda x, v: wrapped(x + v),
    log=lambda x, y: wrapped(y - x),
    dist=dist,
    velocity=lambda x, v, s: v,
    tangent=lambda x, output: output,
    seen=seen,
    log_density=log_density,
  )


@checked
def sphere() -> Manifold:
  """Makes the sphere of unit vectors, [B, ..., n]; tangent vectors are [..., n] too.

  The antipode, which has no log, has 0.
  """

  def exp(x, v):
    n = _norm(v)
    return _unit(jnp.cos(n) * x + jnp.sinc(n / math.pi) * v)

  def log(x, y):
    # A difference, or a sum near the antipode, is exact in floats.
    near = jnp.sum(x * y, axis=-1, keepdims=True) >= 0.0
    apart = jnp.where(near, y - x, y + x)
    along = tangent(x, apart)
    return dist(x, y)[..., None] * _unit(along)

  def dist(x, y):
    return 2.0 * jnp.arctan2(_norm(x - y), _norm(x + y))[..., 0]

  def velocity(x, v, s):
    n = _norm(v)
    return jnp.cos(s * n) * v - n * jnp.sin(s * n) * x

  def tangent(x, output):
    return output - jnp.sum(x * output, axis=-1, keepdims=True) * x

  def log_density(x, y, sigma):
    return _log_stretched(dist(x, y), sigma[..., 0], x.shape[-1] - 2)

  return Manifold(
    uniform=lambda key, shape: _unit(draw_normal(key, jnp.zeros(shape))),
    exp=exp,
    log=log,
    dist=dist,
    velocity=velocity,
    tangent=tangent,
    seen=lambda x: x,
    log_density=log_density,
  )


@checked
def rotations() -> Manifold:
  """Makes the rotations of space, unit quaternions (w, x, y, z), [B, ..., 4]; q is -q.

  Points that `uniform` and `exp` return have w of 0 or more. Tangent vectors are rotation
  vectors of the body, [..., 3], whose length is the angle. A network sees the rotation's
  matrix, [..., 9], and returns a rotation vector.
  """

  def log(x, y):
    q = _product(jnp.concatenate([x[..., :1], -x[..., 1:]], axis=-1), y)
    q = _with_one_sign(q)
    n = _norm(q[..., 1:])
    return 2.0 * jnp.arctan2(n, q[..., :1]) * _unit(q[..., 1:])

  def exp(x, v):
    half = 0.5 * _norm(v)
    turn = jnp.concatenate([jnp.cos(half), 0.5 * jnp.sinc(half / math.pi) * v], axis=-1)
    return _with_one_sign(_unit(_product(x, turn)))

  def dist(x, y):
    return _norm(log(x, y))[..., 0]

  def log_density(x, y, sigma):
    return _log_stretched(0.5 * dist(x, y), sigma[..., 0], 2, 0.5 * math.pi)

  return Manifold(
    uniform=lambda key, shape: _with_one_sign(_unit(draw_normal(key, jnp.zeros(shape)))),
    exp=exp,
    log=log,
    dist=dist,
    velocity=lambda x, v, s: v,
    tangent=lambda x, output: output,
    seen=_matrix,
    log_density=log_density,
  )


def _log_stretched(phi, sigma, power, largest=math.pi):
  # Log of sin(phi / sigma)^power / (sigma sin(phi)^power): angles of the uniform law are
  # distributed as sin^power, and are multiplied by sigma.
  inside = phi < sigma * largest
  wide = jnp.where(inside, phi / sigma, 0.5 * math.pi)
  # Both sines vanish at 0, where their ratio is 1 / sigma.
  ratio = jnp.sinc(wide / math.pi) / (sigma * jnp.sinc(phi / math.pi))
  log = power * jnp.log(jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)) - jnp.log(sigma)
  return jnp.where(inside, log, -jnp.inf)


def _norm(v):
  # Its gradient is 0 at 0.
  square = jnp.sum(jnp.square(v), axis=-1, keepdims=True)
  return jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)


def _unit(v):
  n = _norm(v)
  return v / jnp.where(n > 0.0, n, 1.0)


def _with_one_sign(q):
  return jnp.where(q[..., :1] < 0.0, -q, q)


def _product(a, b):
  # Of quaternions.
  w, v, r, u = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
  real = w * r - jnp.sum(v * u, axis=-1, keepdims=True)
  return jnp.concatenate([real, w * u + r * v + jnp.cross(v, u)], axis=-1)


def _matrix(q):
  w, x, y, z = (q[..., i] for i in range(4))
  rows = (
    *(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
    *(2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
    *(2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
  )
  return jnp.stack(rows, axis=-1)

"""Geodesics and the densities on them equal closed forms in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from diffusion_jax import joint
from tests.rows import slow
from tests.transcribed import transcribes

MANIFOLDS = {'circle': joint.circle(3.0), 'sphere': joint.sphere(), 'rotations': joint.rotations()}
NUMBERS = {'circle': (), 'sphere': (3,), 'rotations': (4,)}
LARGEST = {'circle': 1.5, 'sphere': math.pi, 'rotations': math.pi}


@functools.cache
def program(name):
  """Returns the program (x, y) -> exp(x, log(x, y)), log, dist of a manifold."""
  space = MANIFOLDS[name]

  @jax.jit
  def run(x, y):
    v = space.log(x, y)
    return space.exp(x, v), v, space.dist(x, y)

  return run


def uniform(name, seed, count=2000):
  return np.asarray(MANIFOLDS[name].uniform(jax.random.key(seed), (count, *NUMBERS[name])))


def exact_log(name, x, y):
  """Computes the logarithm of the same floats in float64, by another formula."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if name == 'rotations':
    first, last = (Rotation.from_quat(q, scalar_first=True) for q in (x, y))
    return (first.inv() * last).as_rotvec()
  if name == 'circle':
    return np.angle(np.exp(2j * np.pi * (y - x) / 3.0)) * 3.0 / (2.0 * np.pi)
  x, y = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (x, y))
  axis = np.cross(x, y)
  sine = np.linalg.norm(axis, axis=-1, keepdims=True)
  angle = np.arctan2(sine, np.sum(x * y, -1, keepdims=True))
  return angle * np.cross(axis / sine, x)


def at_angle(name, x, angle, seed=3):
  """Returns points at a distance from x in float64, rounded to float32."""
  rng = np.random.default_rng(seed)
  x = np.asarray(x, np.float64)
  if name == 'circle':
    return np.float32(x + angle * rng.choice([-1.0, 1.0], len(x)))
  if name == 'rotations':
    axis = rng.standard_normal((len(x), 3))
    axis *= angle / np.linalg.norm(axis, axis=1, keepdims=True)
    turned = Rotation.from_quat(x, scalar_first=True) * Rotation.from_rotvec(axis)
    return np.float32(turned.as_quat(scalar_first=True))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  u = np.cross(x, rng.standard_normal(x.shape))
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  return np.float32(np.cos(angle) * x + np.sin(angle) * u)


@pytest.mark.parametrize('left', [1.0, 0.1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize('name', MANIFOLDS)
def test_logarithms_are_accurate_to_1e_6_up_to_1e_4_from_the_end(name, left):
  """Also near 0, and in the length; exp leads to y."""
  x = uniform(name, 1)
  for angle in (LARGEST[name] - left, left):
    y = at_angle(name, x, angle)
    end, v, length = program(name)(x, y)
    exact = exact_log(name, x, y)
    # The direction is as far off as its length is short of the cut, for rounded points.
    assert_allclose(v, exact, atol=1e-6)
    of_exact = np.abs(exact) if name == 'circle' else np.linalg.norm(exact, axis=-1)
    assert_allclose(length, of_exact, atol=1e-6)
    assert np.max(MANIFOLDS[name].dist(end, y)) < 2e-6


def test_a_sphere_of_any_dimension_has_its_tangents():
  x, y = (np.asarray(joint.sphere().uniform(jax.random.key(i), (50, 5))) for i in (0, 1))
  v = joint.sphere().log(x, y)
  assert_allclose(np.sum(v * x, -1), 0.0, atol=1e-6)
  assert_allclose(np.linalg.norm(v, axis=-1), np.arccos(np.sum(x * y, -1)), atol=1e-5)
  assert_allclose(joint.sphere().exp(x, v), y, atol=1e-6)


@pytest.mark.parametrize('name', MANIFOLDS)
def test_gradients_are_finite_at_equal_points(name):
  space, x = MANIFOLDS[name], uniform(name, 2, 5)

  def loss(x, y):
    v = space.log(x, y)
    return jnp.sum(jnp.square(v)) + jnp.sum(space.exp(x, v)) + jnp.sum(space.dist(x, y))

  for gradient in jax.grad(loss, (0, 1))(x, x):
    assert np.isfinite(gradient).all()


def test_q_and_minus_q_are_one_rotation():
  space, x, y = joint.rotations(), uniform('rotations', 4), uniform('rotations', 5)
  v, matrix = space.log(x, y), space.seen(x)
  for a, b in ((-x, y), (x, -y), (-x, -y)):
    assert_allclose(space.log(a, b), v, atol=2e-6)
    assert_allclose(space.seen(a), matrix)
  exact = Rotation.from_quat(x, scalar_first=True).as_matrix().reshape(-1, 9)
  assert_allclose(matrix, exact, atol=1e-6)


def test_rotations_are_returned_with_one_sign():
  space, x = joint.rotations(), joint.rotations().uniform(jax.random.key(0), (200, 4))
  turned = space.exp(x, jax.random.normal(jax.random.key(1), (200, 3)))
  assert np.all(x[:, 0] >= 0.0) and np.all(turned[:, 0] >= 0.0)


def test_angles_have_a_period():
  space, x, y = joint.circle(3.0), uniform('circle', 6), uniform('circle', 7)
  assert_allclose(space.log(x + 3.0, y - 6.0), space.log(x, y), atol=2e-6)
  assert_allclose(space.seen(x + 3.0), space.seen(x), atol=2e-6)
  assert np.abs(x).max() <= 1.5 and np.abs(space.exp(x, 10.0 * y)).max() <= 1.5


def test_the_velocity_is_the_derivative_of_the_geodesic():
  space, x, y = joint.sphere(), uniform('sphere', 8, 20), uniform('sphere', 9, 20)
  v = space.log(x, y)
  at, slope = jax.jvp(
    lambda s: space.exp(x, s * v), (jnp.full((20, 1), 0.3),), (jnp.ones((20, 1)),)
  )
  assert_allclose(space.velocity(x, v, 0.3), slope, atol=2e-6)
  assert_allclose(space.log(at, y), 0.7 * slope, atol=4e-6)


@transcribes(
  'Riemannian flow matching (Chen & Lipman 2023)',
  'q(x_t | x_0) of uniform noise, in closed form',
  '`joint.sphere().log_density`',
)
@pytest.mark.parametrize('sigma', [0.9, slow(0.4)])
@pytest.mark.parametrize('name', MANIFOLDS)
def test_the_density_is_that_of_x_t(name, sigma):
  """Its mean over uniform points is 1, and as weights it gives the law of x_t."""
  space, count = MANIFOLDS[name], 100_000
  x = np.broadcast_to(uniform(name, 10, 1), (count, *NUMBERS[name]))
  part = np.full((count, *[1] * len(NUMBERS[name])), sigma, np.float32)

  @jax.jit
  def draw(x, y):
    return space.exp(x, part * space.log(x, y)), jnp.exp(space.log_density(x, y, part))

  y = np.asarray(space.uniform(jax.random.key(11), (count, *NUMBERS[name])))
  xt, weight = draw(x, y)
  assert abs(np.mean(weight) - 1.0) < 4.5 * np.std(weight) / count**0.5
  for f in (np.cos, lambda d: np.cos(3.0 * d), lambda d: d):
    of_xt, of_y = f(np.asarray(space.dist(x, xt))), weight * f(np.asarray(space.dist(x, y)))
    error = np.hypot(np.std(of_xt), np.std(of_y)) / count**0.5
    assert abs(np.mean(of_xt) - np.mean(of_y)) < 4.5 * error
  assert np.isneginf(space.log_density(x, y, part)[space.dist(x, y) > sigma * LARGEST[name]]).all()


@pytest.mark.slow
def test_five_million_rotations_have_finite_and_exact_logarithms():
  space, worst = joint.rotations(), 0.0

  @jax.jit
  def run(key):
    first, last = (space.uniform(k, (500_000, 4)) for k in jax.random.split(key))
    v = space.log(first, last)
    return first, last, v, space.dist(first, last), space.exp(first, v)

  for i in range(10):
    first, last, v, length, end = map(np.asarray, run(jax.random.key(i)))
    assert np.isfinite(v).all() and np.isfinite(length).all() and np.isfinite(end).all()
    exact = exact_log('rotations', first, last)
    angle = np.linalg.norm(exact, axis=1)
    assert_allclose(length, angle, atol=1e-6)
    inside = angle < np.pi - 1e-4
    worst = max(worst, np.abs(v - exact)[inside].max())
  assert worst < 1e-6

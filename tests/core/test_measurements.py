"""Measurements: their densities, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, poisson

import diffusion_jax as dj
from tests.jitted import jitted, level_at

MATRIX = np.array([[1.0, 0.5, 0.0, -0.5], [0.0, 1.0, 2.0, 0.3]])
Y = np.array([0.7, -0.4])
LEVEL = level_at(dj.CosineSchedule(), 0.5)


def measured(std):
  forward = jax.jit(lambda x: x @ jnp.asarray(MATRIX.T, jnp.float32))
  return dj.Measurement(np.float32(Y[None]), forward, std)


def denoise(x, level):
  return dj.Prediction(0.5 * x)


def by_drawing(_, m):
  return lambda x, level: dj.gaussian_draw(m)(jax.random.key(0), x, level.sigma)


@pytest.mark.parametrize('make', [dj.proximal, dj.pseudoinverse_guided, by_drawing])
def test_a_measurement_that_is_not_linear_is_refused(make):
  for forward in (lambda x: x + 1.0, lambda x: jnp.clip(x, -0.1, 0.1)):
    m = dj.Measurement(jnp.zeros((1, 4)), jax.jit(forward), 0.1)
    with pytest.raises(TypeError, match='forward is not linear'):
      jax.eval_shape(make(denoise, m), jnp.ones((2, 4)), LEVEL)


def test_a_function_is_asked_for_each_shape_whether_it_is_linear():
  @dataclasses.dataclass  # without a hash
  class Shifted:
    def __call__(self, x):
      return x + (x.shape[1] == 3)

  for forward in (Shifted(), Shifted().__call__, lambda x: Shifted()(x)):
    for size in (2, 3, 2, 3):
      m = dj.Measurement(np.zeros((1, size)), forward)
      x = np.zeros((1, size), np.float32)
      if size == 2:
        assert_array_equal(m.transpose(x)(x), x)
      else:
        with pytest.raises(TypeError, match='forward is not linear'):
          m.transpose(x)


@pytest.mark.parametrize('shape', [(1, 3), (3, 2), (2,), (1, 1)])
def test_a_y_of_another_shape_is_refused(shape):
  m = dataclasses.replace(measured(0.1), y=np.zeros(shape, np.float32))
  key, x = jax.random.key(0), jnp.ones((2, 4))
  calls = [
    m.log_prob,
    m.distance,
    lambda x: dj.pseudoinverse_guided(denoise, m)(x, LEVEL),
    lambda x: dj.proximal(denoise, m)(x, LEVEL),
    lambda x: dj.gaussian_draw(m)(key, x, jnp.array(1.0)),
  ]
  for call in calls:
    with pytest.raises(ValueError, match=r'y has the shape .*, and forward'):
      jax.eval_shape(call, x)


def test_log_prob_is_scipys(key):
  x = jax.random.uniform(key, (3, 4), minval=-1.0)
  std = np.array([0.1, 0.5, 2.0], np.float32)
  mean = np.asarray(x, np.float64) @ MATRIX.T
  expected = norm.logpdf(Y[None], mean, std[:, None].astype(float)).sum(axis=1)
  found = jax.jit(lambda std: measured(std).log_prob(x))(std)
  assert_allclose(found, expected, rtol=1e-5)

  counts = np.array([[3, 0, 7, 1]] * 3)
  log_prob = dj.poisson_log_prob(jnp.asarray(counts), lambda x: x, 20.0)
  rate = 10.0 * (np.asarray(x, np.float64) + 1.0)
  expected = poisson.logpmf(counts, rate).sum(axis=1)
  assert_allclose(jitted(log_prob)(x), expected, rtol=1e-4)

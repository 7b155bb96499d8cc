"""Targets of each parametrization are the published ones, and are invertible without signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core import parametrization
from tests.jitted import jitted

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
at_step = jax.jit(SCHEDULE.at_step)


@pytest.fixture
def data(rng):
  x0, eps = rng.standard_normal((2, 4, 6), np.float32)
  level = at_step(np.array([50, 300, 600, 900]))
  return x0, eps, jitted(dj.q_sample)(x0, eps, level), level


def test_the_rows_are_the_published_targets(data):
  *_, level = data
  x0, eps, _ = map(np.asarray, data[:3])
  alpha, sigma = (np.asarray(a)[:, None] for a in level[1:])
  expected = {
    'x0': x0,
    'eps': eps,
    'v': alpha * eps - sigma * x0,
    'score': -eps / sigma,
    'flow': eps - x0,
  }
  for kind, value in expected.items():
    found = jitted(dj.target)(kind, x0, eps, level)
    assert_allclose(found, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', parametrization.KINDS)
def test_a_row_of_x_t_and_x0_is_the_target_times_a_number(kind, data):
  """sigma, 1 for x0, -sigma^2 for score; finite without noise."""
  x0, eps, xt, level = data
  p, q = jitted(parametrization.output_row)(kind, level)
  alpha, sigma = (np.asarray(a, np.float64) for a in level[1:])
  factor = {'x0': np.ones(4), 'score': -(sigma**2)}.get(kind, sigma)[:, None]
  found = np.asarray(p)[:, None] * np.float64(xt) + np.asarray(q)[:, None] * x0
  norm = np.sqrt(sigma**2 + 0.25 * alpha**2)[:, None]
  a, s = alpha[:, None], sigma[:, None]
  expected = {
    'x0': x0, 'eps': eps, 'v': a * eps - s * x0, 'score': -eps / s, 'flow': eps - x0,
    'edm': s / (0.5 * norm) * x0 - 0.5 * a / norm * eps,
  }[kind]  # fmt: skip
  assert_allclose(found, factor * expected, atol=1e-5)
  assert np.isfinite(jitted(parametrization.output_row)(kind, dj.clean_level())).all()


@pytest.mark.parametrize('kind', ['x0', 'v', 'flow', 'edm'])
def test_no_signal_left_is_no_problem(kind, rng):
  x0, eps = rng.standard_normal((2, 3, 2), np.float32)
  level = dj.NoiseLevel(*(jnp.asarray(v) for v in (1.0, 0.0, 1.0)))
  y = jitted(dj.target)(kind, x0, eps, level)
  assert_allclose(jitted(dj.to_x0)(kind, y, eps, level), x0, atol=1e-6)

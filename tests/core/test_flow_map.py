"""Flow maps of networks, their boundary conditions and their conversions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core import flow_map as maps
from diffusion_jax.testing import oracles

STRAIGHT, EDM = dj.RectifiedFlowSchedule(), dj.KarrasSchedule()
GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])
X = jax.random.normal(jax.random.key(3), (4, 2))
T, S = jnp.array([1.0, 0.9, 0.6, 0.2]), jnp.array([0.0, 0.4, 0.3, 0.1])


def network(params, x, noise, cond, *, key=None):
  """A network without zeros."""
  out = 1.3 + x + 0.1 * noise[:, None]
  return out + (cond or {}).get('elapsed', jnp.zeros(len(x)))[:, None]


def flow_map(kind, sigma_min=0.002, cond=None, **options):
  return dj.make_flow_map(
    dj.Network(network, **options), (), cond, kind=kind, sigma_min=sigma_min
  )


def test_the_three_kinds_have_their_boundaries_exactly():
  """x_s = x_t at s = t; f = x at sigma_min and at angle 0."""
  level = STRAIGHT(T)
  u = flow_map('average_velocity', noise_input=dj.time_input(1.0))
  np.testing.assert_array_equal(u(X, level, level), X)

  f = flow_map('consistency', noise_input=dj.edm_input, sigma_min=0.25)
  level = dj.NoiseLevel(jnp.zeros(()), jnp.ones(()), jnp.array(0.25))
  np.testing.assert_array_equal(f(X, level, level), X)
  half = dj.NoiseLevel(level.t, jnp.array(0.5), jnp.array(0.125))
  np.testing.assert_array_equal(f(0.5 * X, half, level), X)

  g = flow_map('trigflow', noise_input=dj.time_input(1.0))
  np.testing.assert_array_equal(g(X, dj.clean_level(), dj.clean_level()), X)


def test_average_velocity_by_hand():
  """The network gets t and the elapsed time in the scale of its input."""
  u = flow_map(
    'average_velocity', noise_input=dj.time_input(10.0), time_scale=10.0
  )
  t, s = (np.asarray(a, np.float64)[:, None] for a in (T, S))
  x = np.asarray(X, np.float64)
  expected = x - (t - s) * (1.3 + x + t + 10.0 * (t - s))
  np.testing.assert_allclose(
    u(X, STRAIGHT(T), STRAIGHT(S)), expected, rtol=1e-5
  )


@pytest.mark.parametrize('schedule', [STRAIGHT, EDM])
def test_consistency_and_trigflow_by_the_papers_formulas(schedule):
  """On paths other than EDM's the functions get x / alpha."""
  level, s_d, s_min = schedule(T), 0.7, 0.002
  alpha, sigma = (np.asarray(a, np.float64)[1:, None] for a in level[1:])
  x, sigma = np.asarray(X, np.float64)[1:] / alpha, sigma / alpha
  noise = np.log(sigma) / 4

  def output(x, noise):
    return 1.3 + x + 0.1 * noise

  skip = s_d**2 / ((sigma - s_min) ** 2 + s_d**2)
  out = (sigma - s_min) * s_d / np.sqrt(sigma**2 + s_d**2)
  scaled = x / np.sqrt(sigma**2 + s_d**2)
  options = {'sigma_data': s_d, 'sigma_min': s_min}
  f = flow_map('consistency', noise_input=dj.edm_input, **options)
  found = f(X, level, dj.clean_level())[1:]
  expected = skip * x + out * output(scaled, noise)
  np.testing.assert_allclose(found, expected, rtol=2e-5)

  angle = np.arctan(sigma / s_d)
  g = flow_map('trigflow', noise_input=dj.time_input(0.5 * np.pi), **options)
  found = g(X, level, dj.clean_level())[1:]
  x = np.cos(angle) * x
  expected = np.cos(angle) * x - np.sin(angle) * s_d * output(x / s_d, angle)
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_without_signal_the_consistency_function_is_finite():
  f = flow_map('consistency', noise_input=dj.time_input(1.0))
  found = f(X, STRAIGHT(jnp.ones(())), dj.clean_level())
  np.testing.assert_allclose(found, 0.5 * network((), X, jnp.ones(4), None))


def test_maps_to_the_clean_end_are_nan_elsewhere():
  f = flow_map('consistency', noise_input=dj.edm_input)
  with jax.debug_nans(False):
    found = jax.jit(f)(X, EDM(jnp.array(0.9)), EDM(jnp.array([0, 0.1, 0, 0])))
  np.testing.assert_array_equal(np.isnan(found)[:, 0], [0, 1, 0, 0])
  # float32 rounds this end up.
  f = flow_map('consistency', noise_input=dj.edm_input, sigma_min=0.01)
  end = dj.KarrasSchedule(0.01)(0.0)
  assert end.sigma > np.float32(0.01)
  assert np.isfinite(f(X, EDM(0.9), end)).all()


def test_conversions_of_the_exact_map():
  """Each form of one map leads back to it."""
  t, s = STRAIGHT(T), STRAIGHT(S)
  xs = GAUSSIAN.flow_map(X, t, s)
  u = GAUSSIAN.average_velocity(X, t, s)
  converted = maps.to_average_velocity(GAUSSIAN.flow_map)(X, t, s)
  np.testing.assert_allclose(converted, u, rtol=1e-5, atol=1e-6)
  converted = maps.from_average_velocity(X, u, t, s)
  np.testing.assert_allclose(converted, xs, rtol=1e-5, atol=1e-6)
  converted = maps.to_shortcut(GAUSSIAN.flow_map, STRAIGHT)(X, T, T - S)
  np.testing.assert_allclose(converted, u, rtol=1e-4, atol=1e-5)
  converted = maps.to_consistency(GAUSSIAN.flow_map, s)(X, t)
  np.testing.assert_array_equal(converted, xs)
  v = maps.to_velocity(GAUSSIAN.denoise, STRAIGHT)(X, t)
  np.testing.assert_allclose(v, GAUSSIAN.velocity(X, t), rtol=1e-4, atol=1e-5)
